# Sourced by run_demo.sh, run_tests.sh and .ci/run: creates .venv once per set of extras and activates it.

make_environment() {
    python="${PYTHON:-python3}"
    [ -x .venv/bin/python ] || "$python" -m venv .venv
    # Packages are installed again only if pyproject.toml or constraints.txt changes.
    stamp=".venv/installed-$1"
    if [ ! -f "$stamp" ] || [ pyproject.toml -nt "$stamp" ] || [ constraints.txt -nt "$stamp" ]; then
        echo "installing the packages of the extra '$1' into .venv"
        .venv/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
            --editable ".[$1]"
        touch "$stamp"
    fi
    PATH="$PWD/.venv/bin:$PATH"
    export PATH
}

check_code() {
    python -m ruff format --check .
    python -m ruff check .
    python -m mypy
}
