"""Checks the peers of compare_cpu.py and compare_gpu.py against reference numbers: --reference DIR.

DIR holds these safetensors files, or some of them, with float32, float64 and int64 tensors of the composite task's
sizes:

    mamba1_composite, mamba2_composite   input_ids (B,L), labels (B), logits (B,L,padded V) of all tokens, loss (1),
                                         and each parameter and its gradient as param.NAME and grad.NAME
    train_mamba1, train_mamba2           S steps of clipping and AdamW (rate 2.5e-4, weight decay 1e-2):
                                         input_ids (S,B,L), labels (S,B), losses (S), grad_norms (S), and each
                                         parameter before and after them as initial.NAME and final.NAME

NAME is mamba_ssm's, from `backbone.` on, without the tied head.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torch_models import V, TrainingStep

BOUND = 2e-5  # of relative errors; single precision stays ten times below
DTYPES = {"F32": torch.float32, "F64": torch.float64, "I64": torch.int64}


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """A length of 8 bytes, so many bytes of JSON (type, shape and place of each tensor), the tensors' bytes."""
    data = bytearray(path.read_bytes())
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        values = torch.frombuffer(data[start + begin : start + end], dtype=DTYPES[entry["dtype"]])
        tensors[name] = values.reshape(entry["shape"])
    return tensors


def named(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def relative_error(got: Tensor | None, expected: Tensor, least_norm: float = 0.0) -> float:
    assert got is not None  # a parameter without gradient
    expected = expected.double()
    return float((got.detach().double() - expected).norm() / expected.norm().clamp_min(least_norm))


def single_batch(model: nn.Module, numbers: dict[str, Tensor]) -> dict[str, float]:
    model.load_state_dict(named(numbers, "param."))
    logits = model(numbers["input_ids"])
    loss = F.cross_entropy(logits, numbers["labels"])
    loss.backward()
    gradients = named(numbers, "grad.")
    # Mamba-2's A_log has 1e-16 of the whole gradient at the start: no float holds its digits.
    least = 1e-6 * float(torch.stack([gradient.norm() for gradient in gradients.values()]).norm())
    return {
        "logits": relative_error(logits, numbers["logits"][:, -1, :V]),
        "loss": relative_error(loss, numbers["loss"]),
        "worst gradient": max(relative_error(p.grad, gradients[name], least) for name, p in model.named_parameters()),
    }


def training(model: nn.Module, numbers: dict[str, Tensor]) -> dict[str, float]:
    model.load_state_dict(named(numbers, "initial."))
    step = TrainingStep(model, numbers["input_ids"][0], numbers["labels"][0], model)
    results = []
    for step.ids, step.labels in zip(numbers["input_ids"], numbers["labels"]):
        results.append(torch.stack(step()))
    losses, norms = torch.stack(results).unbind(1)
    final = named(numbers, "final.")
    return {
        "losses": relative_error(losses, numbers["losses"]),
        "gradient norms": relative_error(norms, numbers["grad_norms"]),
        "worst parameter": max(relative_error(p, final[name]) for name, p in model.named_parameters()),
    }


def check(
    folder: Path,
    models: Mapping[tuple[str, str], Callable[[], nn.Module]],
    report: Callable[[str], None],
    device: str = "cpu",
) -> bool:
    """True when there are numbers and all models, by (mixer, variant), agree."""
    agree = []
    for (mixer_name, variant), make in models.items():
        kind = mixer_name.lower().replace("-", "")
        for stem, compare in ((f"{kind}_composite", single_batch), (f"train_{kind}", training)):
            path = folder / f"{stem}.safetensors"
            if path.exists():
                numbers = {name: tensor.to(device) for name, tensor in read_safetensors(path).items()}
                errors = compare(make().to(device), numbers)
                agree.append(max(errors.values()) <= BOUND)
                report(
                    f"{stem}, {variant}: relative errors " + ", ".join(f"{what} {e:.1e}" for what, e in errors.items())
                )
    if not agree:
        report(f"{folder} has none of the files that reference_check.py describes")
    return bool(agree) and all(agree)
