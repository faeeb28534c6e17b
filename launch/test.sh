#!/usr/bin/env bash
# Installs what is missing, then runs the tests.
#
#   bash launch/test.sh                       # all that take seconds
#   bash launch/test.sh -m slow               # the others
#   bash launch/test.sh tests/config          # any arguments of pytest
#
# TEST_WORKERS says how many run at a time (2); VENV and PYTHON are
# install.sh's.
set -euo pipefail
cd "$(dirname "$0")/.."

bash launch/install.sh
exec "${VENV:-.venv}/bin/python" -m pytest -n "${TEST_WORKERS:-2}" \
  -m 'not slow and not tpu' "$@"
