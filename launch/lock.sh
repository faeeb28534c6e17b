#!/usr/bin/env bash
# Remakes requirements/*.lock from setup.cfg and requirements/*.in; needs uv.
#
#   bash launch/lock.sh            # what is locked stays, as far as it can
#   bash launch/lock.sh --upgrade  # everything moves to its newest version
#
# Each lock serves every Python from 3.11 on, by environment markers, and names
# no index, so that pip and uv take theirs from wherever they are set to.
set -euo pipefail
cd "$(dirname "$0")/.."

if ! command -v uv > /dev/null; then
  echo "lock.sh: uv is not installed; accepted: any uv on PATH" >&2
  exit 1
fi

lock() {  # lock OUT ARGS...: resolves for every Python and every platform.
  local out=$1
  shift
  uv pip compile --quiet --universal --python-version 3.11 --no-annotate \
    --no-emit-index-url --no-emit-find-links --generate-hashes \
    --custom-compile-command 'bash launch/lock.sh' --output-file "$out" "$@" \
    > /dev/null
  echo "lock.sh: $out: $(grep -c '==' "$out") packages"
}

lock requirements/build.lock requirements/build.in "$@"
lock requirements/main.lock setup.cfg requirements/main.in --extra quickstart \
  --extra test --override requirements/overrides.txt "$@"
lock requirements/encoder.lock requirements/encoder.in --no-deps "$@"

# libtpu is the one package that the tpu extra adds, in the version that the
# locked jax asks for.
full=$(mktemp)
trap 'rm -f "$full"' EXIT
cp requirements/main.lock "$full"
lock "$full" setup.cfg requirements/main.in --extra quickstart --extra test \
  --extra tpu --override requirements/overrides.txt > /dev/null
awk '/^#/ || /^[^ ]/ {keep = /^#/ || /^libtpu==/} keep' "$full" \
  > requirements/tpu.lock
echo "lock.sh: requirements/tpu.lock: $(grep -c '==' requirements/tpu.lock)" \
  'packages'

# Beam holds some packages back (protobuf, pyarrow, Pillow, numpy). What it adds
# and what it wants otherwise is a lock of its own, installed over main.lock.
cp requirements/main.lock "$full"
lock "$full" setup.cfg requirements/main.in --extra quickstart --extra test \
  --extra beam --override requirements/overrides.txt "$@" > /dev/null
awk 'NR == FNR {if (/==/) there[$0]; next}
     /^#/ || /^[^ ]/ {keep = /^#/ || !($0 in there)} keep' \
  requirements/main.lock "$full" > requirements/beam.lock
echo "lock.sh: requirements/beam.lock: $(grep -c '==' requirements/beam.lock)" \
  'packages'
