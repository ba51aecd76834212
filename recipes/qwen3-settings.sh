# What the two Qwen3 recipes share: sourced by them, it sets `options`. Each variable can be given from outside.
#   HF_ASSETS   a folder with Qwen3's tokenizer: hf download Qwen/Qwen3-0.6B tokenizer.json tokenizer_config.json --local-dir ...
#   OUT         where checkpoints and logs go; on several nodes a disk that all share
#   WEIGHT      of the dispersion loss; 0 is the baseline

: "${HF_ASSETS:=assets/hf/Qwen3-0.6B}"
: "${OUT:=runs/qwen3}"
: "${WEIGHT:=0.1}"
# 156B tokens of C4 in windows of 4096. Windows an update and steps of warm-up are our choice: the paper's are not known.
: "${TOKENS:=156000000000}"
: "${CONTEXT:=4096}"
: "${BATCH:=256}"
: "${BATCH_OF_A_GPU:=4}"
: "${WARMUP:=2000}"

options=(
    --module torchtitan_qwen3 --config qwen3_0_6b
    --hf_assets_path "$(realpath -m "$HF_ASSETS")"
    --dump_folder "$(realpath -m "$OUT")"
    --dispersion_weight "$WEIGHT"
    --training.seq_len "$CONTEXT"
    --training.global_batch_size "$BATCH"
    --training.local_batch_size "$BATCH_OF_A_GPU"
    --training.steps "$((TOKENS / (BATCH * CONTEXT)))"
    --lr_scheduler.warmup_steps "$WARMUP"
    --checkpoint.enable
    --checkpoint.interval 1000
    --checkpoint.keep_latest_k 3
    --checkpoint.last_save_in_hf
    --checkpoint.last_save_model_only
    --metrics.log_freq 10
    --metrics.enable_tensorboard
)
# torchtitan finds its module by name: the example that adds the loss.
cd "$(dirname "${BASH_SOURCE[0]}")/../examples"
