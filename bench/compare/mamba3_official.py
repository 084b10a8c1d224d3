#!/usr/bin/env python3
"""What mamba_ssm's own Mamba-3 kernels compute of the reference numbers: mamba3_official.py [--reference DIR]

Reads DIR/mamba3_*.safetensors (tests/data by default: parameters, tokens, logits, loss and gradients in float64), has
mamba_ssm's language model compute the same with its kernels as they ship, and prints relative errors (2-norms): logits,
loss, the worst tensor's gradient. Those kernels round keys, queries, inputs and angles to bfloat16 whatever the model's
precision, and use approximate functions. What this library computes of the same files agrees with them to float's last
digits (tests/model/reference_mamba3.cpp, tests/cuda/reference_mamba3.cu), so that these errors are also what lies
between mamba_ssm and us. Several inputs and outputs of a head (MIMO) need TileLang; without it they are left out.

Exit code 0 when all logits are within BOUND, 1 when not, 2 without a GPU or mamba_ssm.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from gpu_peers import in_a_line, note, why_no_peer

BOUND = 3e-2  # 8 bits of mantissa, some roundings one behind the other
HERE = Path(__file__).resolve().parent


def header_of(path: Path) -> dict[str, Any]:
    data = path.read_bytes()
    header: dict[str, Any] = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return header["__metadata__"]


def make_model(config: dict[str, Any]) -> Any:
    from mamba_ssm.models.config_mamba import MambaConfig
    from mamba_ssm.models.mixer_seq_simple import MambaLMHeadModel

    names = ("d_state", "expand", "headdim", "ngroups", "rope_fraction", "is_outproj_norm", "is_mimo")
    of_layer = {"layer": "Mamba3", **{name: config[name] for name in names}}
    if config["is_mimo"]:
        of_layer |= {"mimo_rank": config["mimo_rank"], "chunk_size": 32 // config["mimo_rank"]}  # of float32
    sizes = {"d_model": config["d_model"], "n_layer": config["n_layers"], "vocab_size": config["vocab_size"]}
    return MambaLMHeadModel(MambaConfig(**sizes, ssm_cfg=of_layer, pad_vocab_size_multiple=8), device="cuda")


def logits_and_loss(model: Any, about: dict[str, Any], config: dict[str, Any], numbers: dict[str, Any]) -> Any:
    from torch.nn import functional as F

    logits = model(numbers["input_ids"]).logits
    size = config["vocab_size"]
    if about["loss"] == "next_token_all_positions":
        return logits, F.cross_entropy(logits[:, :-1, :size].flatten(0, 1), numbers["input_ids"][:, 1:].flatten())
    return logits, F.cross_entropy(logits[:, -1, :size], numbers["labels"])


def errors_of(path: Path) -> dict[str, float]:
    import torch
    from mamba_ssm.modules import mamba3
    from torch.nn import functional as F

    from compile_kernels import share
    from reference_check import named, read_safetensors, relative_error

    about = header_of(path)
    config = json.loads(about["config"])
    numbers = {name: tensor.to("cuda") for name, tensor in read_safetensors(path).items()}
    own_rate = mamba3.heavy_tail_activation
    try:
        if config.get("a_activation") == "softplus":  # as it was until June 2026
            mamba3.heavy_tail_activation = F.softplus
        model = make_model(config)
        left_out = model.load_state_dict({k: v.float() for k, v in named(numbers, "param.").items()}, strict=False)
        assert not left_out.unexpected_keys and set(left_out.missing_keys) <= {"lm_head.weight"}, left_out
        model.tie_weights()
        # Which configuration Triton takes of a kernel does not matter here, and trying all takes minutes for each file.
        with share(0, 0):
            logits, loss = logits_and_loss(model, about, config, numbers)
            loss.backward()
    finally:
        mamba3.heavy_tail_activation = own_rate
    expected = named(numbers, "grad.")
    least = 1e-6 * float(torch.stack([gradient.norm() for gradient in expected.values()]).norm())
    gradients = {
        name: relative_error(p.grad, expected[name].reshape(p.shape), least) for name, p in model.named_parameters()
    }
    worst = max(gradients, key=lambda name: gradients[name])
    return {
        "logits": relative_error(logits, numbers["logits"]),
        "loss": relative_error(loss, numbers["loss"][0]),
        f"gradient of {worst.removeprefix('backbone.')}": gradients[worst],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--reference", type=Path, default=HERE.parents[1] / "tests/data", help="default: %(default)s")
    arguments = parser.parse_args()
    if problem := why_no_peer():
        note(problem)
        return 2
    agree = []
    for path in sorted(arguments.reference.glob("mamba3_*.safetensors")):
        if "loss" not in header_of(path):
            continue  # a recurrence by itself
        try:
            errors = errors_of(path)
        except Exception as error:  # whatever a compiler raises; the others go on
            print(f"{path.stem}: left out: {in_a_line(error)}", flush=True)
            continue
        agree.append(errors["logits"] <= BOUND)
        print(f"{path.stem}: relative errors " + ", ".join(f"{what} {e:.1e}" for what, e in errors.items()), flush=True)
    if not agree:
        note(f"{arguments.reference} has no reference numbers of Mamba-3 that could be compared")
    return 0 if agree and all(agree) else 1


if __name__ == "__main__":
    sys.exit(main())
