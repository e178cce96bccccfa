# Sourced by run_demo.sh and run_tests.sh: makes .venv once per set of extras and enters it.

make_environment() {
    python="${PYTHON:-python3}"
    [ -x .venv/bin/python ] || "$python" -m venv .venv
    # Installed again only when the project's requirements change.
    stamp=".venv/installed-$1"
    if [ ! -f "$stamp" ] || [ pyproject.toml -nt "$stamp" ]; then
        echo "installing the packages of the extra '$1' into .venv"
        .venv/bin/python -m pip install --quiet --disable-pip-version-check --editable ".[$1]"
        touch "$stamp"
    fi
    PATH="$PWD/.venv/bin:$PATH"
    export PATH
}
