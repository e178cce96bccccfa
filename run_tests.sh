#!/bin/sh
# Runs format, lint, type and test checks in .venv. Arguments are passed to pytest: sh run_tests.sh tests/data -x
set -eu
cd "$(dirname "$0")"
. ./environment.sh
make_environment test
check_code

python -m pytest -q "$@"
