#!/usr/bin/env bash
# Mid-training of GPT-2 as in the paper, on one GPU: each arm and seed one after the other, in a folder each. The same command goes on.
#   OUT=runs/gpt2 SEEDS=3 recipes/gpt2-1gpu.sh [more options of decondense train, which win]
set -euo pipefail

# 200M tokens of WikiText-103 in windows of 1024. Windows an update are our choice: the paper's batch is not known.
exec decondense train \
    --init gpt2 \
    --texts wikitext \
    --tokens 200_000_000 \
    --context 1024 \
    --batch-size "${BATCH:-8}" \
    --learning-rate 5e-5 \
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
    --evaluate-every 1000 \
    --save-every 500 \
    --out "${OUT:-runs/gpt2}" \
    "$@"
