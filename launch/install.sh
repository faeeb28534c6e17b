#!/usr/bin/env bash
# Installs the project and its locked dependencies into .venv.
#
#   bash launch/install.sh          # does nothing where nothing has changed
#   bash launch/install.sh --tpu    # with libtpu, on the hosts of a pod
#   bash launch/install.sh --beam   # with Apache Beam, into .venv-beam
#
# Takes uv where it is installed, and pip otherwise. Every package, those that
# building takes included, comes by hash from requirements/*.lock. Settings:
#   PYTHON  the interpreter to make .venv from (else the first that fits)
#   VENV    where to install (else .venv, or .venv-beam)
set -euo pipefail
cd "$(dirname "$0")/.."

fail() {
  echo "install.sh: $1" >&2
  exit 1
}

venv=${VENV:-.venv}
locks=(requirements/main.lock requirements/encoder.lock)
over=()
case ${1:-} in
  '') ;;
  --tpu) locks+=(requirements/tpu.lock) ;;
  # Beam asks for older packages than main.lock has: an environment of its own.
  --beam) venv=${VENV:-.venv-beam} over=(requirements/beam.lock) ;;
  *) fail "unknown argument $1; accepted: --tpu, --beam, or none" ;;
esac

# Prints why Python $1 will not do; nothing where it will.
unfit() {
  "$1" - "${uv:+uv}" 2> /dev/null << 'PYTHON' || echo 'does not run'
import importlib.util
import os
import shutil
import sys
import sysconfig

version = sys.version_info[:2]
header = os.path.join(sysconfig.get_paths()['include'], 'Python.h')
compiles = shutil.which('c++') and os.path.exists(header)
if not (3, 11) <= version <= (3, 13):
  print('is %d.%d' % version)
elif 'uv' not in sys.argv and not importlib.util.find_spec('ensurepip'):
  print('has no ensurepip: apt install python%d.%d-venv' % version)
# No wheel of seqio's dependency editdistance is for 3.13; it is one C++ file.
elif version == (3, 13) and not compiles:
  print('is 3.13, which takes a C++ compiler and python3.13-dev')
PYTHON
}

# Prints the interpreter to use, or why there is none.
find_python() {
  local name reason seen=
  local names=(python3.11 python3.12 python3.13 python3 python)
  [[ -z ${PYTHON:-} ]] || names=("$PYTHON")
  for name in "${names[@]}"; do
    command -v "$name" > /dev/null || continue
    reason=$(unfit "$name")
    if [[ -z $reason ]]; then
      echo "$name"
      return
    fi
    seen+="; $name $reason"
  done
  echo "no Python 3.11, 3.12 or 3.13 was found${PYTHON:+ in PYTHON=$PYTHON}" \
    "(or install uv, which brings one)$seen"
  return 1
}

# Two scripts started side by side install one after the other.
if command -v flock > /dev/null; then
  exec 9> "$venv.lock"
  flock 9
fi

stamp=$venv/imagen-jax.stamp
wanted=$(
  { echo "$PWD"; cat "${locks[@]}" "${over[@]}" requirements/build.lock \
    setup.cfg pyproject.toml; } | sha256sum | cut -d ' ' -f 1
)
version='import sys; print(sys.version)'
if [[ -n ${PYTHON:-} && -x $venv/bin/python \
    && $("$venv/bin/python" -c "$version") != $("$PYTHON" -c "$version") ]]
then
  fail "$venv is of another Python than PYTHON=$PYTHON; remove it, or set VENV"
fi
if [[ -e $stamp && $(< "$stamp") == "$wanted" ]] \
    && "$venv/bin/python" -c '' 2> /dev/null; then
  exit
fi
if [[ -e $venv && ! -e $stamp ]]; then
  fail "$venv was not made by this script; move it away, or set VENV"
fi

SECONDS=0
uv=$(command -v uv || true)
if ! "$venv/bin/python" -c '' 2> /dev/null; then
  rm -rf "$venv"
  if ! python=$(find_python); then
    [[ -n $uv && -z ${PYTHON:-} ]] || fail "$python"
    python=3.12  # uv fetches it.
  fi
  mkdir -p "$venv"
  : > "$stamp"
  if [[ -n $uv ]]; then
    "$uv" venv --quiet --allow-existing --python "$python" "$venv"
  else
    "$python" -m venv "$venv"
  fi
fi
: > "$stamp"  # Until all is there, the next run starts over.

log=$venv/install.log
: > "$log"

# Shows which package pip is at, on one line of a terminal.
progress() {
  local line count=0
  while read -r line; do
    case $line in
      Collecting*) count=$((count + 1)) ;;
      Installing*) line='  unpacking' ;;
      *) continue ;;
    esac
    line=${line#Collecting }
    [[ ! -t 1 ]] || printf '\r\033[K  %s: %s' "$count" "${line%% (*}"
  done
  [[ ! -t 1 ]] || printf '\r\033[K'
}

# Byte code is left to the first import, which compiles only what is imported:
# compiling all of it here would cost more than the rest of the installation.
install() {
  if [[ -n $uv ]]; then
    "$uv" pip install --quiet --python "$venv/bin/python" --no-deps "$@" \
      2>&1 | tee -a "$log" >&2
  else
    "$venv/bin/python" -m pip install --disable-pip-version-check --no-input \
      --no-deps --no-compile "$@" 2>&1 | tee -a "$log" | progress
  fi
}

run_or_tell() {
  install "$@" && return
  [[ -n $uv ]] || tail -n 15 "$log" >&2
  fail "installing failed; all that was said is in $log"
}

count=$(cat "${locks[@]}" "${over[@]}" | grep -c '==')
tool=$([[ -n $uv ]] && echo uv || echo pip)
echo "installing $count packages (about 800 MB) into $venv with $tool, once"
run_or_tell --require-hashes -r requirements/build.lock
run_or_tell --require-hashes --no-build-isolation "${locks[@]/#/-r}"
[[ -z ${over[*]} ]] \
  || run_or_tell --require-hashes --no-build-isolation "${over[@]/#/-r}"
run_or_tell --no-build-isolation -e .
echo "$wanted" > "$stamp"
echo "installed into $venv in $SECONDS s" \
  "($("$venv/bin/python" -V), $tool)"
