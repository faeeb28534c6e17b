#!/usr/bin/env bash
# Runs this project on a TPU pod: a thin shell over `gcloud compute tpus`.
#
#   bash launch/pod.sh [--dry-run] COMMAND
#
#   create             asks for the pod, and returns; `status` tells of it
#   push               installs the committed tree on every host
#   run CMD ARGS...    starts one command on every host, and returns;
#                      run --host N CMD ARGS... on host N alone;
#                      run --restart N CMD ARGS... again, N times at most, where
#                      a host was lost, preempted or killed
#   status             the pod's state, and every host's: running, or its exit
#   logs [N]           follows host N's log (0) until Ctrl-C; the job goes on
#   stop               asks the job on every host to save and end (SIGTERM)
#   fetch SRC DEST     copies gs://..., or a path of host 0, to this machine
#   ssh [N]            a shell on host N (0)
#   delete             gives the pod back, after a question
#
# --dry-run prints what would be run, and runs nothing. The settings are those
# of launch/pod.env.example. A job outlives the connection that started it; a
# second one is refused while it runs, since a host's chips serve one process.
#
# The 2B base stage, from a folder PICTURES with a captions.jsonl to weights on
# this machine. The hosts need the roles Storage Object User and Storage Legacy
# Bucket Reader on the bucket.
#
#   cp launch/pod.env.example launch/pod.env   # and fill it in
#   set -a; . launch/pod.env; set +a           # for $BUCKET below
#   imagen-jax data build --dataset folder --source PICTURES --out pairs
#   gcloud storage cp --recursive pairs "gs://$BUCKET"
#   bash launch/pod.sh create
#   bash launch/pod.sh status                  # until it says ACTIVE
#   bash launch/pod.sh push
#   bash launch/pod.sh run imagen-jax encode --config configs/base64.py \
#     --out "gs://$BUCKET/text" \
#     --set data.tasks.pairs.path="gs://$BUCKET/pairs"
#   bash launch/pod.sh status                  # until all have ended with 0
#   bash launch/pod.sh run imagen-jax train --config configs/base64.py \
#     --workdir "gs://$BUCKET/base64" --set text.store="gs://$BUCKET/text" \
#     --set data.tasks.pairs.path="gs://$BUCKET/pairs"
#   bash launch/pod.sh logs
# to resume, after `stop`, a crash or a new pod: the same `run` again; it goes
# on from the newest checkpoint. Then
#   bash launch/pod.sh run --host 0 imagen-jax export \
#     --workdir "gs://$BUCKET/base64" --out "gs://$BUCKET/exports/base64"
#   bash launch/pod.sh run --host 0 imagen-jax sample \
#     --weights "gs://$BUCKET/exports/base64" --prompt 'a corgi on a bike' \
#     --out "gs://$BUCKET/samples"
#   bash launch/pod.sh fetch "gs://$BUCKET/exports/base64" exports
#   bash launch/pod.sh fetch "gs://$BUCKET/samples" .
#   bash launch/pod.sh delete
set -euo pipefail
repo=$(cd "$(dirname "$0")/.." && pwd)

fail() {
  echo "pod.sh: $*" >&2
  exit 2
}

dry_run=
if [[ ${1:-} == --dry-run ]]; then
  dry_run=yes
  shift
fi
command=${1:-}
[[ $# == 0 ]] || shift
case $command in
  create | push | run | status | logs | stop | fetch | ssh | delete) ;;
  '' | -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"; exit ;;
  *) fail "no command '$command'; accepted: create, push, run, status, logs," \
    "stop, fetch, ssh, delete" ;;
esac

required=(POD_NAME PROJECT ZONE ACCELERATOR_TYPE RUNTIME_VERSION BUCKET)
optional=(QUEUED SPOT INTERNAL_IP NETWORK SUBNETWORK)
settings=${POD_ENV:-$repo/launch/pod.env}

# The file's lines are read, not run, and the environment comes before them.
if [[ -e $settings ]]; then
  while IFS='=' read -r name value || [[ -n $name ]]; do
    [[ -n $name && $name != \#* ]] || continue
    [[ " ${required[*]} ${optional[*]} " == *" $name "* ]] \
      || fail "$settings sets $name; accepted: ${required[*]} ${optional[*]}"
    [[ -n ${!name:-} ]] || printf -v "$name" '%s' "$value"
  done < "$settings"
fi
for name in "${required[@]}"; do
  [[ -n ${!name:-} ]] \
    || fail "$name is not set; set it in $settings, or in the environment"
done
QUEUED=${QUEUED:-yes} SPOT=${SPOT:-no} INTERNAL_IP=${INTERNAL_IP:-no}
for name in QUEUED SPOT INTERNAL_IP; do
  [[ ${!name} == yes || ${!name} == no ]] \
    || fail "$name is '${!name}'; accepted: yes, no"
done
for name in "${required[@]}" "${optional[@]}"; do
  [[ -z ${!name:-} ]] || echo "$name=${!name}" >&2
done

where=(--project="$PROJECT" --zone="$ZONE")
reach=("${where[@]}")
[[ $INTERNAL_IP == no ]] || reach+=(--internal-ip)

# Prints words as one would type them: quoted only where that matters.
typed() {
  local word
  for word in "$@"; do
    [[ $word =~ ^[A-Za-z0-9_./:=@%+,-]+$ ]] || word=${word@Q}
    printf ' %s' "$word"
  done
}

# Prints a command, then runs it unless this is a rehearsal.
act() {
  echo "+$(typed "$@")" >&2
  [[ -n $dry_run ]] || "$@"
}

on_hosts() {  # on_hosts WHICH COMMAND: a line for the shell of host N, or all.
  act gcloud compute tpus tpu-vm ssh "$POD_NAME" "${reach[@]}" \
    --worker="$1" --command="$2"
}

host_number() {
  [[ ${1:-0} =~ ^[0-9]+$ ]] || fail "host is '$1'; accepted: 0, 1, ..."
  echo "${1:-0}"
}

# A host's part is launch/host.sh, which `push` brings there with the rest.
host_script='bash imagen_jax/launch/host.sh'

do_create() {
  # A bucket that is not there should show before the pod costs anything.
  act gcloud storage buckets describe "gs://$BUCKET" --project="$PROJECT" \
    --format='value(location)'
  local request=("${where[@]}" --accelerator-type="$ACCELERATOR_TYPE")
  [[ $SPOT == no ]] || request+=(--spot)
  [[ -z ${NETWORK:-} ]] || request+=(--network="$NETWORK")
  [[ -z ${SUBNETWORK:-} ]] || request+=(--subnetwork="$SUBNETWORK")
  [[ $INTERNAL_IP == no ]] || request+=(--internal-ips)
  if [[ $QUEUED == yes ]]; then
    act gcloud compute tpus queued-resources create "$POD_NAME" \
      --node-id="$POD_NAME" "${request[@]}" \
      --runtime-version="$RUNTIME_VERSION" --async
  else
    act gcloud compute tpus tpu-vm create "$POD_NAME" "${request[@]}" \
      --version="$RUNTIME_VERSION"
  fi
}

do_push() {
  local changed archive
  changed=$(git -C "$repo" status --porcelain | wc -l)
  [[ $changed == 0 ]] \
    || echo "pod.sh: $changed uncommitted changes are not pushed" >&2
  archive=$(mktemp -d)/imagen_jax.tar.gz
  # shellcheck disable=SC2064  # The folder of now is the one to remove.
  trap "rm -rf '$(dirname "$archive")'" EXIT
  # Unpacking under a running job would pull its files from beneath it.
  on_hosts all "[ ! -e imagen_jax/launch/host.sh ] || $host_script idle"
  act git -C "$repo" archive --format=tar.gz --output="$archive" HEAD
  act gcloud compute tpus tpu-vm scp "$archive" "$POD_NAME:imagen_jax.tar.gz" \
    "${reach[@]}" --worker=all
  on_hosts all "mkdir -p imagen_jax && find imagen_jax -mindepth 1 \
-maxdepth 1 ! -name '.venv*' -exec rm -rf {} + && \
tar -xzf imagen_jax.tar.gz -C imagen_jax && $host_script setup"
}

do_run() {
  local which=all restart=()
  while [[ ${1:-} == --host || ${1:-} == --restart ]]; do
    if [[ $1 == --host ]]; then
      which=$(host_number "${2:-}")
    else
      [[ ${2:-} =~ ^[0-9]+$ ]] \
        || fail "--restart is '${2:-}'; accepted: 0, 1, ..."
      restart=(--restart "$2")
    fi
    shift $(($# < 2 ? $# : 2))
  done
  [[ $# -gt 0 ]] || fail 'run needs a command, such as: imagen-jax train ...'
  on_hosts "$which" "env$(typed "BUCKET=$BUCKET") $host_script start$(
    typed "${restart[@]}" "$@"
  )"
}

do_status() {
  if [[ $QUEUED == yes ]]; then
    act gcloud compute tpus queued-resources describe "$POD_NAME" \
      "${where[@]}" --format='value(state.state)'
  else
    act gcloud compute tpus tpu-vm describe "$POD_NAME" "${where[@]}" \
      --format='value(state)'
  fi
  on_hosts all "$host_script status"
}

do_logs() {
  local host
  host=$(host_number "$@")
  on_hosts "$host" "$host_script follow"
}

do_stop() {
  on_hosts all "$host_script stop"
}

do_fetch() {
  [[ $# == 2 ]] || fail 'fetch needs SRC (gs://... or a path of host 0) and DEST'
  act mkdir -p "$2"
  if [[ $1 == gs://* ]]; then
    act gcloud storage cp --recursive "$1" "$2"
  else
    act gcloud compute tpus tpu-vm scp "$POD_NAME:$1" "$2" "${reach[@]}" \
      --worker=0 --recurse
  fi
}

do_ssh() {
  local host
  host=$(host_number "$@")
  act gcloud compute tpus tpu-vm ssh "$POD_NAME" "${reach[@]}" --worker="$host"
}

do_delete() {  # gcloud itself asks whether it is meant.
  if [[ $QUEUED == yes ]]; then
    act gcloud compute tpus queued-resources delete "$POD_NAME" \
      "${where[@]}" --force
  else
    act gcloud compute tpus tpu-vm delete "$POD_NAME" "${where[@]}"
  fi
}

"do_$command" "$@"
