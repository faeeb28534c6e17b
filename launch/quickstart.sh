#!/usr/bin/env bash
# The whole job on one machine, at small scale: from nothing to a cascade that
# draws captions which it was never shown.
#
#   bash launch/quickstart.sh              # 15 minutes on two cores, 16 -> 64 px
#   bash launch/quickstart.sh --full       # an hour, 32 -> 64 -> 128 px
#   bash launch/quickstart.sh --rehearsal  # minutes; learns nothing
#   bash launch/quickstart.sh --out DIR    # default: quickstart[-full|...]/
#   bash launch/quickstart.sh --text-encoder t5_1_1_small  # needs a network
#
# What stands in --out already is taken up where it was left.
set -euo pipefail
cd "$(dirname "$0")/.."

size=quick
out=
text=()
while [[ $# -gt 0 ]]; do
  case $1 in
    --full | --rehearsal) size=${1#--}; shift ;;
    --out) out=${2:?--out needs a folder}; shift 2 ;;
    --text-encoder)
      case ${2:-} in
        minilm_l6) ;;
        t5_1_1_small)
          text=(--set text.encoder=t5_1_1_small --set text.checkpoint=
            --set text.embed_dim=512) ;;
        *)
          echo "quickstart.sh: --text-encoder is '${2:-}'; accepted:" \
            "minilm_l6, t5_1_1_small" >&2
          exit 2 ;;
      esac
      shift 2 ;;
    *)
      echo "quickstart.sh: unknown argument $1; accepted: --full," \
        "--rehearsal, --out DIR, --text-encoder NAME" >&2
      exit 2 ;;
  esac
done

# Of each size: pictures to draw and their side, the stages' names and configs,
# and how many captions are scored of each dataset.
case $size in
  quick)
    pixels=64 num_shapes=8000 num_openmoji=12000
    stages=(base sr)
    configs=(configs/tiny_base.py configs/tiny_sr.py)
    score_shapes=200 score_openmoji=200 ;;
  full)
    pixels=128 num_shapes=12000 num_openmoji=24000
    stages=(base sr64 sr128)
    configs=(configs/tiny_base.py:full configs/tiny_sr.py:full64
      configs/tiny_sr.py:full128)
    score_shapes=200 score_openmoji=200 ;;
  rehearsal)
    pixels=64 num_shapes=64 num_openmoji=64
    stages=(base sr)
    configs=(configs/tiny_base.py:test configs/tiny_sr.py:test)
    score_shapes=4 score_openmoji=4 ;;
esac
# Huge pages, where there is glibc: XLA takes and returns its buffers at every
# step, and 4 kB at a time that costs a tenth of the images a second.
export GLIBC_TUNABLES=${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}
export MALLOC_MMAP_THRESHOLD_=${MALLOC_MMAP_THRESHOLD_:-4294967296}
export MALLOC_TRIM_THRESHOLD_=${MALLOC_TRIM_THRESHOLD_:-8589934592}
out=${out:-quickstart$([[ $size == quick ]] || echo "-$size")}

SECONDS=0
act() {
  printf '\n[%d:%02d] %s\n' $((SECONDS / 60)) $((SECONDS % 60)) "$1"
}

act '1/7 installing the project into .venv'
bash launch/install.sh
venv=${VENV:-.venv}
imagen=("$venv/bin/python" -m imagen_jax)
mkdir -p "$out"

# What every command that reads a config is told beside it.
common=(
  --set "data.tasks.shapes.path=$out/data/shapes"
  --set "data.tasks.openmoji.path=$out/data/openmoji"
  --set "text.store=$out/embeddings" "${text[@]}"
)

act '2/7 drawing the dataset: shapes, and OpenMoji objects'
"${imagen[@]}" data build --dataset shapes --out "$out/data/shapes" \
  --num-examples "$num_shapes" --size "$pixels"
"${imagen[@]}" data build --dataset openmoji --out "$out/data/openmoji" \
  --num-examples "$num_openmoji" --size "$pixels"

act '3/7 encoding the captions with the frozen text encoder'
"${imagen[@]}" encode --config "${configs[0]}" --out "$out/embeddings" \
  "${common[@]}"

# Prints the newest step that a run has logged; nothing before the first.
logged() {
  [[ ! -e $1/metrics.jsonl ]] || tail -n 1 "$1/metrics.jsonl" \
    | sed -n 's/^{"step": \([0-9]*\),.*/\1/p'
}

# Prints steps and losses of a run around step $2.
losses() {
  sed -n 's/^{"step": \([0-9]*\),.*"loss": \([0-9.]*\),.*/  step \1 loss \2/p' \
    "$1/metrics.jsonl" | awk -v at="$2" '$2 > at - 150 && $2 <= at + 150'
}

train_base=(train --config "${configs[0]}" --workdir "$out/base"
  "${common[@]}")
act '4/7 training the base stage, to be stopped in the middle'
num_steps=$("$venv/bin/python" -c \
  'import sys
from imagen_jax import config
print(config.load(sys.argv[1]).train.num_steps)' "${configs[0]}")
"${imagen[@]}" "${train_base[@]}" &
pid=$!
trap 'kill "$pid" 2> /dev/null || true' EXIT
while kill -0 "$pid" 2> /dev/null; do
  step=$(logged "$out/base")
  # Past the middle, where a checkpoint is due anyway.
  if (( ${step:-0} >= num_steps * 11 / 20 && ${step:-0} < num_steps )); then
    kill -TERM "$pid" 2> /dev/null || true
    break
  fi
  sleep 1
done
status=0
wait "$pid" || status=$?
trap - EXIT
# 143 is the status of a run that SIGTERM stopped in good order.
[[ $status == 0 || $status == 143 ]] || exit "$status"

act '4/7 resuming the base stage with the same command'
stopped=$(logged "$out/base")
"${imagen[@]}" "${train_base[@]}"
echo "the loss before and after the stop, at step $stopped:"
losses "$out/base" "$stopped"

for i in "${!stages[@]}"; do
  [[ $i -gt 0 ]] || continue
  act "5/7 training super-resolution: ${configs[i]}"
  "${imagen[@]}" train --config "${configs[i]}" \
    --workdir "$out/${stages[i]}" "${common[@]}"
done

act '6/7 exporting the EMA weights of all stages'
for stage in "${stages[@]}"; do
  "${imagen[@]}" export --workdir "$out/$stage" --out "$out/export/$stage"
done

act '7/7 drawing captions that were never in the training set'
for dataset in shapes openmoji; do
  "${imagen[@]}" data captions --dataset "$dataset" --num 6 --seed 1
done > "$out/grid_prompts.txt"
"${imagen[@]}" data captions --dataset shapes --num "$score_shapes" \
  --seed 2 \
  > "$out/score_prompts.txt"
"${imagen[@]}" data captions --dataset openmoji --num "$score_openmoji" \
  --seed 2 \
  >> "$out/score_prompts.txt"
# One batch size, so that the second command finds what the first compiled.
weights=("${stages[@]/#/$out/export/}")
sample=(sample --weights "${weights[@]}" --batch-size 36 --simulated-devices 2)
"${imagen[@]}" "${sample[@]}" --prompts "$out/grid_prompts.txt" \
  --guidance-weight 1 1.5 3 --out "$out/grid"
"${imagen[@]}" "${sample[@]}" --prompts "$out/score_prompts.txt" \
  --out "$out/samples"
"${imagen[@]}" score --samples "$out/samples" --out "$out/scores.json"

act 'done'
cat << EOF
Look at:
  $out/grid/grid.png      twelve captions at three guidance weights
  $out/samples/grid.png   the first that were scored; figures: $out/scores.json
  $out/base, ...          checkpoints, metrics.jsonl, samples/, and events for
                          tensorboard --logdir $out
  $out/export             the weights, as safetensors
EOF
# Prints a command of imagen-jax, quoted where a shell would need it.
by_hand() {
  echo "  imagen-jax$(printf ' %q' "$@")"
}
echo "By hand, with $venv/bin on the PATH:"
by_hand data build --dataset shapes --out "$out/mine/shapes" \
  --num-examples "$num_shapes" --size "$pixels"
by_hand encode --config "${configs[0]}" --out "$out/mine/embeddings" \
  "${common[@]}"
by_hand train --config "${configs[0]}" --workdir "$out/mine/base" \
  "${common[@]}"
by_hand export --workdir "$out/mine/base" --out "$out/mine/export"
by_hand sample --weights "${weights[@]}" --out "$out/mine/samples" \
  --prompt 'a large red circle above a small blue square'
