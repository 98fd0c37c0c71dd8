"""Tiny random models of the causal language models that the installed transformers has."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

VOCABULARY = 64

SIZES: dict[int, str] = {
    VOCABULARY: "vocab_size n_vocab vocab_size_per_layer_input unpadded_vocab_size pronunciation_vocab_size "
    "shape_vocab_size",
    32: "hidden_size n_embd d_model embedding_size hidden_dim dim emb_dim",
    2: "num_hidden_layers n_layer n_layers num_layers encoder_layers decoder_layers num_key_value_heads "
    "num_experts_per_tok num_experts_per_token moe_topk linear_num_key_heads",
    4: "num_attention_heads n_head n_heads num_heads encoder_attention_heads decoder_attention_heads "
    "num_local_experts num_experts n_routed_experts linear_num_value_heads num_encoder_attention_heads "
    "num_decoder_attention_heads zero_expert_num",
    8: "head_dim dim_head qk_rope_head_dim qk_nope_head_dim v_head_dim linear_key_head_dim linear_value_head_dim "
    "linear_head_dim mamba_d_head mamba_head_dim mamba_n_heads mamba_num_heads mamba_d_state rotary_dim "
    "index_head_dim swa_head_dim rel_extent linear_num_heads ssm_state_size",
    16: "chunk_size mamba_chunk_size kv_lora_rank q_lora_rank o_lora_rank pronunciation_embed_dim shape_embed_dim",
    48: "intermediate_size moe_intermediate_size shared_expert_intermediate_size shared_intermediate_size "
    "dense_intermediate_size encoder_ffn_dim decoder_ffn_dim ffn_dim dim_ff n_inner expert_ffn_hidden_size "
    "ffn_hidden_size dff d_inner moe_shared_expert_intermediate_size",
    96: "max_position_embeddings n_positions max_seq_len n_ctx sliding_window attention_chunk_size",
    0: "pad_token_id",
    1: "bos_token_id n_group topk_group",
    3: "eos_token_id",
}
COMMON: dict[str, Any] = {name: size for size, names in SIZES.items() for name in names.split()}
COMMON |= {"is_decoder": True}

LINEAR = ["linear_attention", "full_attention"]
HEADS_OF_MAMBA = {"mamba_n_heads": 8, "mamba_d_head": 8, "num_key_value_heads": 2}
_LATENT = "axk1 axk2 deepseek_v3 deepseek_v32 glm4_moe_lite glm_moe_dsa longcat_flash minicpm3 youtu"
OWN: dict[str, dict[str, Any]] = {
    **{kind: {"num_key_value_heads": 4} for kind in _LATENT.split()},
    **{kind: {"layer_types": LINEAR} for kind in ("minimax", "qwen3_next", "qwen3_5_text", "qwen3_5_moe_text")},
    "bailing_hybrid": {"layer_types": LINEAR, "num_key_value_heads": 4},
    "bamba": {"attn_layer_indices": [1], **HEADS_OF_MAMBA},
    "codegen": {"rotary_dim": 4},
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2, "num_key_value_heads": 4},
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "rope_theta": 1e4, "clip_qkv": 8},
        "ffn_config": {"ffn_hidden_size": 48, "moe_num_experts": 4, "moe_top_k": 2},
    },
    "deepseek_v2": {"num_experts_per_tok": 2, "n_group": 1, "topk_group": 1, "num_key_value_heads": 4},
    "dots3_note_text": {"num_key_value_heads": 4},
    "falcon_h1": {"mamba_d_ssm": 64, **HEADS_OF_MAMBA},
    "gemma3n_text": {
        "num_hidden_layers": 4,
        "num_kv_shared_layers": 2,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "hidden_size_per_layer_input": 8,
        "laurel_rank": 8,
        "intermediate_size": 48,
        "activation_sparsity_pattern": [0.0] * 4,
    },
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": 96},
    "gptj": {"rotary_dim": 4},
    "granitemoehybrid": {"layer_types": LINEAR, **HEADS_OF_MAMBA},
    "hunyuan_v1_dense": {"head_dim": 8},
    "hunyuan_v1_moe": {"head_dim": 8},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "kimi_linear": {"layer_types": LINEAR, "num_key_value_heads": 4},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
    "lfm3": {"layer_types": ["conv", "full_attention"]},
    "mamba2": {"num_heads": 8, "head_dim": 8, "n_groups": 1, "state_size": 8, "chunk_size": 16},
    "ministral": {"head_dim": 8},
    "nemotron": {"num_key_value_heads": 2, "head_dim": 8},
    "qwen4_exp_text": {
        "num_hidden_layers": 4,
        "indexer_n_heads": 2,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 8,
        "indexer_budget": 16,
        "indexer_compress_ratio": 4,
    },
    "prophetnet": {"num_decoder_layers": 2, "num_encoder_layers": 1},
    "recurrent_gemma": {"num_hidden_layers": 3, "num_key_value_heads": 1, "lru_width": 32},
    "reformer": {
        "axial_pos_embds": False,
        "attn_layers": ["local"],
        "attention_head_size": 8,
        "local_attn_chunk_length": 8,
        "feed_forward_size": 48,
    },
    "xlm": {"causal": True},
    "xmod": {"default_language": "en_XX"},
    "zamba": {
        "num_hidden_layers": 4,
        "layers_block_type": ["linear_attention", "hybrid"] * 2,
        "n_mamba_heads": 2,
        "num_key_value_heads": 4,
    },
    "zamba2": {
        "layers_block_type": ["linear_attention", "hybrid"],
        "n_mamba_heads": 8,
        "mamba_headdim": 8,
        "num_key_value_heads": 4,
    },
    "zaya": {"num_experts_per_tok": 1, "router_hidden_size": 16},
}
"""Fields of single families."""

_NOT_TEXT = "reads images or sound; its text model is a family of its own, or never alone"
LEFT_OUT: dict[str, str] = {
    **dict.fromkeys(
        (
            "cohere_compass_text",
            "emu3",
            "gemma3",
            "gemma3n",
            "gemma4",
            "gemma4_unified",
            "git",
            "mllama",
            "musicgen",
            "musicgen_melody",
            "phi4_multimodal",
        ),
        _NOT_TEXT,
    ),
    **dict.fromkeys(
        ("gemma4_assistant", "gemma4_unified_assistant"), "drafts for another model, whose states it reads"
    ),
    "blt": "a model of bytes and patches with tables of 500,000 hashes",
}
"""Families that are not built, with the reason."""

KINDS = sorted({model: kind for kind, model in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.items()}.values())
"""A model type of every class."""


def tiny_model(kind: str, **changes: Any) -> Any:
    """Return a model of this type with random weights; changes of fields that it lacks are left out."""
    default = CONFIG_MAPPING[kind]().get_text_config()
    fields = default.to_dict()
    common = {name: size for name, size in COMMON.items() if fields.get(name) is not None}
    known = {name: value for name, value in changes.items() if name in fields}
    config = type(default)(**common | OWN.get(kind, {}) | known)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    for weights in model.parameters():
        if weights.dim() > 1:
            torch.nn.init.normal_(weights, std=0.2)
    return model
