#!/usr/bin/env bash
# What launch/pod.sh has each host of a pod do; nobody else needs it.
#
#   setup          installs the tree that this file is part of
#   start [--restart N] CMD...
#                  starts a job, detached; refused while another one runs. Where
#                  it ends with a status that says so, it is run again, N times
#   idle           fails while a job runs
#   status         says in one line how the last job is doing
#   follow         shows the log's end, and what comes
#   stop           sends the job SIGTERM
#
# A job's files lie in ~/imagen_jax_job: log (older ones beside it, dated), pid
# while there is a job, and exit, its status, once it has ended.
set -euo pipefail
tree=$(cd "$(dirname "$0")/.." && pwd)
self=$tree/launch/host.sh
job=$HOME/imagen_jax_job
host=$(uname -n)

say() {
  echo "$host: $1"
}

running() {
  [[ -e $job/pid && ! -e $job/exit ]] \
    && kill -0 -- "-$(< "$job/pid")" 2> /dev/null
}

do_setup() {
  # uv, because a host's own Python may be too old; uv brings one.
  export PATH="$HOME/.local/bin:$PATH"
  command -v uv > /dev/null || python3 -m pip install --quiet --user uv
  bash "$tree/launch/install.sh" --tpu
  say "ready: $("$tree/.venv/bin/imagen-jax" --version)"
}

do_idle() {
  if running; then
    say 'a job is running; wait for it, or: bash launch/pod.sh stop' >&2
    exit 1
  fi
}

do_start() {
  do_idle
  mkdir -p "$job"
  cd "$job"
  [[ ! -e log ]] || mv log "log.$(date -r log +%Y%m%d-%H%M%S)"
  rm -f exit pid
  # A session of its own: a dropped connection does not reach it, and `stop`
  # reaches all of it.
  setsid nohup bash "$self" job "$@" > log 2>&1 < /dev/null &
  echo $! > pid
  say 'started'
}

# The job itself, inside its session. The trap lets this shell outlive the
# signal that ends its command, and tell how that went; after `stop`, which
# signals this shell as well, nothing is run again.
do_job() {
  local restarts=0 status stopped=
  if [[ ${1:-} == --restart ]]; then
    restarts=$2
    shift 2
  fi
  trap 'stopped=yes' TERM
  cd "$tree"
  export PATH="$tree/.venv/bin:$PATH"
  while true; do
    status=0
    "$@" || status=$?
    if [[ -n $stopped || $restarts == 0 ]] || ! worth_restarting "$status"; then
      break
    fi
    restarts=$((restarts - 1))
    echo "$self: ended with status $status; again, and then $restarts times more"
    # Until the other hosts have seen that this one is gone.
    sleep "${RESTART_SECONDS:-20}" || true
    [[ -z $stopped ]] || break
  done
  echo "$status" > "$job/exit"
}

# What docs/running.md lists: another host has died (75), this one was told to
# stop (143) or was killed (134 to 139).
worth_restarting() {
  [[ $1 == 75 || $1 == 143 || ($1 -ge 134 && $1 -le 139) ]]
}

do_status() {
  local state='no job yet'
  if running; then
    state='running'
  elif [[ -e $job/exit ]]; then
    state="ended with status $(< "$job/exit")"
  elif [[ -e $job/pid ]]; then
    state='died without a word'
  fi
  [[ ! -e $job/log ]] || state+=": $(tail -n 1 "$job/log")"
  say "$state"
}

do_follow() {
  exec tail -n 200 -F "$job/log"
}

do_stop() {
  running || { say 'no job is running'; return; }
  kill -TERM -- "-$(< "$job/pid")"
  say 'told to stop'
}

case ${1:-} in
  setup | start | idle | job | status | follow | stop) "do_$1" "${@:2}" ;;
  *) echo "host.sh: no command '${1:-}'" >&2; exit 2 ;;
esac
