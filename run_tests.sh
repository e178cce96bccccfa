#!/bin/sh
# Format, lint, types and tests in an environment of their own. Arguments go to pytest: sh run_tests.sh tests/data -x
set -eu
cd "$(dirname "$0")"
. ./environment.sh
make_environment test

python -m ruff format --check .
python -m ruff check .
python -m mypy
python -m pytest -q "$@"
