#!/usr/bin/env bash
# Mid-training of GPT-2 as in the paper, on the 8 GPUs of one node, which share each batch. The same command goes on.
#   OUT=runs/gpt2-8 SEEDS=3 recipes/gpt2-8gpu.sh [more options of decondense train, which win]
set -euo pipefail

# As gpt2-1gpu.sh, but for what depends on the number of GPUs: as many windows on each, and the paper's 5e-5 times the square root of 8.
exec torchrun --standalone --nproc-per-node 8 -m decondense train \
    --init gpt2 \
    --texts wikitext \
    --tokens 200_000_000 \
    --context 1024 \
    --batch-size "$((8 * ${BATCH:-8}))" \
    --learning-rate "$(awk 'BEGIN { printf "%.6g", 5e-5 * sqrt(8) }')" \
    --warmup 0.2 \
    --weight-decay 0.1 \
    --clip 1.0 \
    --precision bfloat16 \
    --gradient-checkpointing \
    --weight 0.1 \
    --layers all \
    --pairs subset:256 \
    --noisy-embedding 5 \
    --active-forgetting 1000 \
    --arms cross_entropy noisy_embedding active_forgetting dispersion decorrelation l2_repel orthogonalization \
    --seeds "${SEEDS:-1}" \
    --evaluate-every 200 \
    --save-every 100 \
    --out "${OUT:-runs/gpt2-8}" \
    "$@"
