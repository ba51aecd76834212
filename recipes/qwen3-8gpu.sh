#!/usr/bin/env bash
# Pre-training of Qwen3-0.6B on C4 as in the paper, by torchtitan, on the 8 GPUs of one node. The same command goes on from the last checkpoint.
#   HF_ASSETS=... OUT=... WEIGHT=0.1 recipes/qwen3-8gpu.sh [more options of torchtitan, which win]
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/qwen3-settings.sh"

exec torchrun --standalone --nproc-per-node 8 -m torchtitan.train "${options[@]}" "$@"
