#!/usr/bin/env bash
# The whole job on one machine, at small scale: from nothing to a cascade that
# draws captions which it was never shown.
#
#   bash launch/quickstart.sh                 # about ten minutes on two cores
#   bash launch/quickstart.sh --out elsewhere # default: quickstart/
#   bash launch/quickstart.sh --text-encoder t5_1_1_small  # needs a network
#
# What stands in --out already is taken up where it was left.
set -euo pipefail
cd "$(dirname "$0")/.."

out=quickstart
text=()
while [[ $# -gt 0 ]]; do
  case $1 in
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
      echo "quickstart.sh: unknown argument $1; accepted: --out DIR," \
        "--text-encoder NAME" >&2
      exit 2 ;;
  esac
done

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
train_base=(train --config configs/tiny_base.py --workdir "$out/base"
  "${common[@]}")
train_sr=(train --config configs/tiny_sr.py --workdir "$out/sr" "${common[@]}")

act '2/7 drawing the dataset: shapes, and OpenMoji objects'
"${imagen[@]}" data build --dataset shapes --out "$out/data/shapes" \
  --num-examples 8000 --size 64
"${imagen[@]}" data build --dataset openmoji --out "$out/data/openmoji" \
  --num-examples 12000 --size 64

act '3/7 encoding the captions with the frozen text encoder'
"${imagen[@]}" encode --config configs/tiny_base.py --out "$out/embeddings" \
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

act '4/7 training the base stage, to be stopped in the middle'
num_steps=$("$venv/bin/python" -c \
  'from imagen_jax import config
print(config.load("configs/tiny_base.py").train.num_steps)')
"${imagen[@]}" "${train_base[@]}" &
pid=$!
trap 'kill "$pid" 2> /dev/null || true' EXIT
while kill -0 "$pid" 2> /dev/null; do
  step=$(logged "$out/base")
  if (( ${step:-0} >= num_steps / 2 && ${step:-0} < num_steps )); then
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

act '5/7 training the super-resolution stage'
"${imagen[@]}" "${train_sr[@]}"

act '6/7 exporting the EMA weights of both stages'
"${imagen[@]}" export --workdir "$out/base" --out "$out/export/base"
"${imagen[@]}" export --workdir "$out/sr" --out "$out/export/sr"

act '7/7 drawing captions that were never in the training set'
for dataset in shapes openmoji; do
  "${imagen[@]}" data captions --dataset "$dataset" --num 6 --seed 1
done > "$out/grid_prompts.txt"
"${imagen[@]}" data captions --dataset shapes --num 200 \
  > "$out/score_prompts.txt"
"${imagen[@]}" data captions --dataset openmoji --num 100 \
  >> "$out/score_prompts.txt"
# One batch size, so that the second command finds what the first compiled.
sample=(sample --weights "$out/export/base" "$out/export/sr" --batch-size 36
  --simulated-devices 2)
"${imagen[@]}" "${sample[@]}" --prompts "$out/grid_prompts.txt" \
  --guidance-weight 1 3 6 --out "$out/grid"
"${imagen[@]}" "${sample[@]}" --prompts "$out/score_prompts.txt" \
  --out "$out/samples"
"${imagen[@]}" score --samples "$out/samples" --out "$out/scores.json"

act 'done'
cat << EOF
Look at:
  $out/grid/grid.png           twelve captions at three guidance weights
  $out/samples/grid.png        what was scored; the figures: $out/scores.json
  $out/base, $out/sr           checkpoints, metrics.jsonl, samples/, and
                               tensorboard --logdir $out
  $out/export                  the weights, as safetensors
By hand, with .venv/bin on the PATH:
  imagen-jax data build --dataset shapes --out DIR --num-examples 8000 --size 64
  imagen-jax encode --config configs/tiny_base.py --out STORE
  imagen-jax train --config configs/tiny_base.py --workdir DIR
  imagen-jax export --workdir DIR --out EXPORT
  imagen-jax sample --weights $out/export/base $out/export/sr \\
      --prompt 'a large red circle above a small blue square' --out DIR
EOF
