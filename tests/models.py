"""Tiny random models of many families, for tests that must hold for all of them."""

import torch
import transformers

COMMON = {
    "vocab_size": 50,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 40,
    "max_position_embeddings": 64,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
}
GROUPED = {**COMMON, "num_key_value_heads": 2}
GPT2 = {
    "vocab_size": 50,
    "n_embd": 32,
    "n_layer": 3,
    "n_head": 2,
    "n_positions": 64,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
OPT = {
    "vocab_size": 50,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "ffn_dim": 40,
    "max_position_embeddings": 64,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
}

CONFIGS = {
    "gpt2": lambda: transformers.GPT2Config(**GPT2, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0),
    "llama": lambda: transformers.LlamaConfig(**GROUPED),
    "qwen3": lambda: transformers.Qwen3Config(**GROUPED, head_dim=16),
    "opt": lambda: transformers.OPTConfig(**OPT, dropout=0.0),
    "opt-projected": lambda: transformers.OPTConfig(**OPT, dropout=0.0, word_embed_proj_dim=16),
    "opt-post-norm": lambda: transformers.OPTConfig(**OPT, dropout=0.0, do_layer_norm_before=False),
    "gpt-neox": lambda: transformers.GPTNeoXConfig(**COMMON),
    "bloom": lambda: transformers.BloomConfig(
        vocab_size=50, hidden_size=32, n_layer=3, n_head=2, bos_token_id=0, eos_token_id=1, pad_token_id=2
    ),
    "gemma": lambda: transformers.GemmaConfig(**GROUPED, head_dim=16),
    "phi": lambda: transformers.PhiConfig(**COMMON),
    "mixtral": lambda: transformers.MixtralConfig(**GROUPED, num_local_experts=3),
    "bert": lambda: transformers.BertConfig(**COMMON, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0),
    "albert": lambda: transformers.AlbertConfig(**COMMON, embedding_size=16),
    "albert-two-groups": lambda: transformers.AlbertConfig(
        **{**COMMON, "num_hidden_layers": 4}, embedding_size=16, num_hidden_groups=2
    ),
}
ENCODERS = ("bert", "albert", "albert-two-groups")


BART = {
    "vocab_size": 50,
    "d_model": 32,
    "encoder_layers": 3,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 40,
    "decoder_ffn_dim": 40,
    "max_position_embeddings": 64,
    "dropout": 0.0,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
    "decoder_start_token_id": 1,
}
T5 = {
    "vocab_size": 50,
    "d_model": 32,
    "d_kv": 16,
    "d_ff": 40,
    "num_layers": 3,
    "num_decoder_layers": 2,
    "num_heads": 2,
    "dropout_rate": 0.0,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
    "decoder_start_token_id": 2,
}
STATE_SPACE = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 3, "bos_token_id": 0, "eos_token_id": 1}
HYBRID = {**GROUPED, "mamba_d_state": 8, "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_chunk_size": 8}
EXPERTS = {**GROUPED, "num_experts": 3, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
MASKED = {**COMMON, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}

# More families of decoders, experts, state spaces and hybrids, with a head for causal language modelling.
DECODERS = {
    "falcon": lambda: transformers.FalconConfig(
        vocab_size=50,
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        max_position_embeddings=64,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
    ),
    "gptj": lambda: transformers.GPTJConfig(**GPT2, rotary_dim=8, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0),
    "gpt-bigcode": lambda: transformers.GPTBigCodeConfig(**GPT2, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0),
    "starcoder2": lambda: transformers.Starcoder2Config(**GROUPED),
    "qwen2": lambda: transformers.Qwen2Config(**GROUPED),
    "gemma2": lambda: transformers.Gemma2Config(**SLIDING),
    "gemma3-text": lambda: transformers.Gemma3TextConfig(**SLIDING),
    "olmo2": lambda: transformers.Olmo2Config(**GROUPED),
    "olmo3": lambda: transformers.Olmo3Config(**GROUPED, sliding_window=4),
    "modernbert-decoder": lambda: transformers.ModernBertDecoderConfig(**COMMON),
    "bart-decoder": lambda: transformers.BartConfig(**BART),
    "biogpt": lambda: transformers.BioGptConfig(**MASKED),
    "qwen3-moe": lambda: transformers.Qwen3MoeConfig(**EXPERTS, head_dim=16),
    "olmoe": lambda: transformers.OlmoeConfig(**EXPERTS),
    "gpt-oss": lambda: transformers.GptOssConfig(**GROUPED, head_dim=16, num_local_experts=3, num_experts_per_tok=2),
    "mamba": lambda: transformers.MambaConfig(**STATE_SPACE, state_size=8),
    "mamba2": lambda: transformers.Mamba2Config(
        **STATE_SPACE, state_size=8, num_heads=4, head_dim=16, n_groups=1, chunk_size=8
    ),
    "falcon-mamba": lambda: transformers.FalconMambaConfig(**STATE_SPACE, state_size=8),
    # It halves its hidden states after every second block.
    "rwkv": lambda: transformers.RwkvConfig(
        **{**STATE_SPACE, "num_hidden_layers": 5}, attention_hidden_size=32, rescale_every=2
    ),
    "xlstm": lambda: transformers.xLSTMConfig(**{**STATE_SPACE, "hidden_size": 64}, num_heads=2, chunk_size=16),
    "recurrent-gemma": lambda: transformers.RecurrentGemmaConfig(
        **{name: value for name, value in GROUPED.items() if name != "max_position_embeddings"}, lru_width=32
    ),
    "jamba": lambda: transformers.JambaConfig(
        **GROUPED,
        num_experts=2,
        attn_layer_period=2,
        attn_layer_offset=1,
        mamba_d_state=8,
        mamba_dt_rank=4,
        use_mamba_kernels=False,
    ),
    "bamba": lambda: transformers.BambaConfig(**HYBRID, attn_layer_indices=[1]),
    "falcon-h1": lambda: transformers.FalconH1Config(**HYBRID, head_dim=16, mamba_d_ssm=64),
    "zamba2": lambda: transformers.Zamba2Config(
        **GROUPED,
        mamba_d_state=8,
        n_mamba_heads=4,
        mamba_headdim=16,
        chunk_size=8,
        adapter_rank=4,
        layers_block_type=["mamba", "hybrid", "mamba"],
        use_mamba_kernels=False,
    ),
    "qwen3-next": lambda: transformers.Qwen3NextConfig(
        **{**EXPERTS, "num_hidden_layers": 4},
        head_dim=16,
        shared_expert_intermediate_size=16,
        linear_key_head_dim=16,
        linear_value_head_dim=16,
        linear_num_key_heads=2,
        linear_num_value_heads=2,
    ),
    "lfm2": lambda: transformers.Lfm2Config(
        **GROUPED, full_attn_idxs=[1], block_auto_adjust_ff_dim=False, layer_types=["conv", "full_attention", "conv"]
    ),
}

# More families of encoders, with a head for masked language modelling.
MORE_ENCODERS = {
    "roberta": lambda: transformers.RobertaConfig(**MASKED),
    "roberta-prelayernorm": lambda: transformers.RobertaPreLayerNormConfig(**MASKED),
    "deberta-v2": lambda: transformers.DebertaV2Config(**MASKED, relative_attention=True),
    # The large ones convolve what the first block gave.
    "deberta-v2-convolving": lambda: transformers.DebertaV2Config(
        **MASKED, relative_attention=True, conv_kernel_size=3, conv_act="gelu"
    ),
    "modernbert": lambda: transformers.ModernBertConfig(**COMMON),
    "distilbert": lambda: transformers.DistilBertConfig(
        vocab_size=50, dim=32, hidden_dim=40, n_layers=3, n_heads=2, max_position_embeddings=64, pad_token_id=2
    ),
    "electra": lambda: transformers.ElectraConfig(**MASKED, embedding_size=16),
    "mpnet": lambda: transformers.MPNetConfig(**MASKED),
}

# Language models that read pictures too. What looks at the pictures has more weights than what reads the text.
EYES = {"hidden_size": 96, "intermediate_size": 192, "num_hidden_layers": 4, "num_attention_heads": 2}
PATCHES = {**EYES, "image_size": 16, "patch_size": 8}
TEXT = {**GROUPED, "model_type": "llama"}
SLIDING = {**GROUPED, "head_dim": 16, "sliding_window": 4}
ENCODER_DECODERS = {
    "t5": lambda: transformers.T5Config(**T5),
    "umt5": lambda: transformers.UMT5Config(**T5),
    "switch": lambda: transformers.SwitchTransformersConfig(**T5, num_experts=2),
    "bart": lambda: transformers.BartConfig(**BART),
    "marian": lambda: transformers.MarianConfig(**BART),
    "m2m100": lambda: transformers.M2M100Config(**BART),
    "pegasus": lambda: transformers.PegasusConfig(**BART),
    "bert-to-bert": lambda: transformers.EncoderDecoderConfig.from_encoder_decoder_configs(
        transformers.BertConfig(**MASKED), transformers.BertConfig(**{**MASKED, "num_hidden_layers": 2})
    ),
    # Its encoder reads pictures beside the text.
    "t5gemma2": lambda: transformers.T5Gemma2Config(
        encoder={
            "text_config": SLIDING,
            "vision_config": PATCHES,
            "mm_tokens_per_image": 4,
            "image_token_index": 49,
            "boi_token_index": 48,
            "eoi_token_index": 47,
        },
        decoder={**SLIDING, "num_hidden_layers": 2},
        image_token_index=49,
        eoi_token_index=47,
    ),
}


MULTIMODAL = {
    "llava": lambda: transformers.LlavaConfig(
        vision_config={**PATCHES, "model_type": "clip_vision_model"}, text_config=TEXT, image_token_index=49
    ),
    "smolvlm": lambda: transformers.SmolVLMConfig(
        vision_config=PATCHES, text_config=TEXT, image_token_id=49, pad_token_id=2
    ),
    "idefics3": lambda: transformers.Idefics3Config(
        vision_config=PATCHES, text_config=TEXT, image_token_id=49, pad_token_id=2
    ),
    "qwen2-vl": lambda: transformers.Qwen2VLConfig(
        vision_config={"depth": 4, "embed_dim": 64, "hidden_size": 32, "num_heads": 2, "patch_size": 8},
        text_config={
            **GROUPED,
            "rope_scaling": {"type": "mrope", "rope_type": "default", "mrope_section": [2, 3, 3]},
        },
        image_token_id=49,
        video_token_id=48,
        vision_start_token_id=47,
        vision_end_token_id=46,
    ),
    "gemma3": lambda: transformers.Gemma3Config(
        vision_config=PATCHES,
        text_config=SLIDING,
        image_token_index=49,
        mm_tokens_per_image=4,
    ),
    "blip2": lambda: transformers.Blip2Config(
        vision_config=PATCHES,
        qformer_config={**MASKED, "encoder_hidden_size": 96},
        text_config={**OPT, "dropout": 0.0, "model_type": "opt"},
        image_token_index=49,
    ),
}


def build(name, head=True, seed=0):
    """A random model of a family, in evaluation mode, with the head of its kind or without one."""
    kinds = (
        (CONFIGS, transformers.AutoModelForCausalLM),
        (DECODERS, transformers.AutoModelForCausalLM),
        (MORE_ENCODERS, transformers.AutoModelForMaskedLM),
        (ENCODER_DECODERS, transformers.AutoModelForSeq2SeqLM),
        (MULTIMODAL, transformers.AutoModelForImageTextToText),
    )
    configs, auto = next(kind for kind in kinds if name in kind[0])
    if not head:
        auto = transformers.AutoModel
    elif name in ENCODERS:
        auto = transformers.AutoModelForMaskedLM
    torch.manual_seed(seed)
    return auto.from_config(configs[name]()).eval()


def tokens(batch=2, length=9, seed=0):
    return torch.randint(3, 50, (batch, length), generator=torch.Generator().manual_seed(seed))
