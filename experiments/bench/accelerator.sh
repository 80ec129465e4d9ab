#!/usr/bin/env bash
# What one accelerator does, in one command of at most eight minutes.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: experiments/bench/accelerator.sh OUT [--tiny] [--data FILE.npz] [--reference CHECKOUT]
                                            [--seconds 480]

Measures on the first device that JAX sees, and writes into the folder OUT:
  accelerator.json   steps in float32 and bfloat16, share of peak, certify over forward, freezing,
                     and a CIFAR-10 run in the time that is left (with --data)
  reference.txt      our step over that of the LiResNet authors' PyTorch code (with --reference,
                     a checkout of it, and torch)
  --seconds          for everything together; the reference takes a quarter
  --tiny             the same at sizes that a laptop runs in two minutes
TEXT
}

out="" tiny="" data="" reference="" seconds=480
while [ $# -gt 0 ]; do
  case "$1" in
    -h | --help) usage; exit 0 ;;
    --tiny) tiny=1 ;;
    --seconds) seconds="${2:?--seconds takes a number}"; shift ;;
    --data) data="${2:?--data takes a file}"; shift ;;
    --reference) reference="${2:?--reference takes a folder}"; shift ;;
    -*) usage >&2; exit 2 ;;
    *) out="$1" ;;
  esac
  shift
done
if [ -z "$out" ]; then usage >&2; exit 2; fi
mkdir -p "$out"
python="${PYTHON:-python}"

if [ -n "$reference" ]; then
  # Shapes of CIFAR-10 L12W512; a quarter of the time.
  size=(--depth 12 --width 512 --batch 256)
  if [ -n "$tiny" ]; then size=(--depth 2 --width 16 --batch 16); fi
  "$python" -m experiments.bench.step_vs_reference "${size[@]}" --reference \
    "$python experiments/bench/liresnet_torch.py $reference ${size[*]}" | tee "$out/reference.txt"
  seconds=$((seconds * 3 / 4))
fi
words=(--out "$out/accelerator.json" --seconds "$seconds")
if [ -n "$tiny" ]; then words+=(--tiny); fi
if [ -n "$data" ]; then words+=(--data "$data"); fi
"$python" -m experiments.bench.accelerator "${words[@]}"
