"""Writes a Mamba model of random weights as a GGUF file, as llama.cpp reads it: by PyPI's package gguf."""

from __future__ import annotations

from pathlib import Path
from typing import Any

LAYERS, D_MODEL, D_CONV, VOCABULARY = 24, 768, 4, 50280
D_INNER = 2 * D_MODEL
PRECISIONS = ("F32", "BF16", "Q8_0")


def write(path: Path, mixer: str, precision: str) -> None:
    """mixer: mamba1 (d_state 16) or mamba2 (d_state 128, heads of 64); precision: of the matrices that products read.
    Small matrices and vectors stay F32, as llama.cpp's own tools leave them."""
    import numpy as np
    from gguf import GGMLQuantizationType, GGUFWriter
    from gguf.quants import quantize

    second = mixer == "mamba2"
    d_state, heads = (128, D_INNER // 64) if second else (16, 0)
    rank = heads if second else D_MODEL // 16
    random = np.random.default_rng(1)
    kind = GGMLQuantizationType[precision]
    writer = GGUFWriter(path, "mamba2" if second else "mamba")
    writer.add_context_length(1 << 20)
    writer.add_embedding_length(D_MODEL)
    writer.add_feed_forward_length(0)
    writer.add_head_count(0)
    writer.add_block_count(LAYERS)
    writer.add_ssm_conv_kernel(D_CONV)
    writer.add_ssm_inner_size(D_INNER)
    writer.add_ssm_state_size(d_state)
    writer.add_ssm_time_step_rank(rank)
    if second:
        writer.add_ssm_group_count(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(VOCABULARY)
    writer.add_tokenizer_model("no_vocab")

    def vector(name: str, values: Any) -> None:
        writer.add_tensor(name, np.ascontiguousarray(values, dtype=np.float32))

    def matrix(name: str, rows: int, columns: int, small: bool = False) -> None:
        values = random.uniform(-1, 1, (rows, columns)).astype(np.float32) / np.float32(columns) ** 0.5
        if small or precision == "F32":
            writer.add_tensor(name, values)
        else:
            writer.add_tensor(name, quantize(values, kind), raw_dtype=kind)

    matrix("token_embd.weight", VOCABULARY, D_MODEL)
    vector("output_norm.weight", np.ones(D_MODEL))
    channels = D_INNER + 2 * d_state if second else D_INNER
    for layer in range(LAYERS):
        name = f"blk.{layer}."
        vector(name + "attn_norm.weight", np.ones(D_MODEL))
        matrix(name + "ssm_in.weight", 2 * D_INNER + (2 * d_state + heads if second else 0), D_MODEL)
        vector(name + "ssm_conv1d.weight", random.uniform(-0.5, 0.5, (channels, D_CONV)))
        vector(name + "ssm_conv1d.bias", random.uniform(-0.5, 0.5, channels))
        if second:
            vector(name + "ssm_dt.bias", random.uniform(-6.9, -2.3, heads))
            vector(name + "ssm_a", -random.uniform(1, 16, (heads, 1)))
            vector(name + "ssm_d", np.ones((heads, 1)))
            vector(name + "ssm_norm.weight", np.ones((1, D_INNER)))
        else:
            matrix(name + "ssm_x.weight", rank + 2 * d_state, D_INNER, small=True)
            matrix(name + "ssm_dt.weight", D_INNER, rank, small=True)
            vector(name + "ssm_dt.bias", random.uniform(-6.9, -2.3, D_INNER))
            vector(name + "ssm_a", -np.tile(np.arange(1, d_state + 1), (D_INNER, 1)))
            vector(name + "ssm_d", np.ones(D_INNER))
        matrix(name + "ssm_out.weight", D_MODEL, D_INNER)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
