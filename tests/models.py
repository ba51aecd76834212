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


def build(name, head=True, seed=0):
    """A random model of a family, in evaluation mode, with the head of its kind or without one."""
    torch.manual_seed(seed)
    if not head:
        auto = transformers.AutoModel
    else:
        auto = transformers.AutoModelForMaskedLM if name in ENCODERS else transformers.AutoModelForCausalLM
    return auto.from_config(CONFIGS[name]()).eval()


def tokens(batch=2, length=9, seed=0):
    return torch.randint(3, 50, (batch, length), generator=torch.Generator().manual_seed(seed))
