"""Language models in plain PyTorch, by the mathematics alone: what a model of 16 bits is measured against in float64.

B batch, L length, D d_model, E d_inner, N d_state, R dt_rank, V vocabulary, H heads, P headdim. A model is its
parameters by mamba_ssm's names, with a tied head; sizes are those of the parameters. Recurrences go step by step.
"""

from __future__ import annotations

import re
from typing import Dict

import torch
from torch import Tensor
from torch.nn import functional as F

Parameters = Dict[str, Tensor]


def rms_norm(x: Tensor, weight: Tensor) -> Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5) * weight


def conv_silu(x: Tensor, p: Parameters) -> Tensor:
    """x (B,L,channels); causal, each channel for itself."""
    weight = p["conv1d.weight"]  # (channels,1,K)
    length, taps = x.shape[1], weight.shape[2]
    padded = F.pad(x, (0, 0, taps - 1, 0))
    return F.silu(p["conv1d.bias"] + sum(padded[:, k : k + length] * weight[:, 0, k] for k in range(taps)))


def softplus(x: Tensor) -> Tensor:
    return torch.logaddexp(x, torch.zeros_like(x))  # without the threshold of F.softplus


def mamba1(x: Tensor, p: Parameters) -> Tensor:
    """x (B,L,D) -> (B,L,D)"""
    states, rank = p["A_log"].shape[1], p["dt_proj.weight"].shape[1]
    u, z = F.linear(x, p["in_proj.weight"]).chunk(2, dim=-1)
    u = conv_silu(u, p)
    r, b, c = F.linear(u, p["x_proj.weight"]).split([rank, states, states], dim=-1)
    delta = softplus(F.linear(r, p["dt_proj.weight"], p["dt_proj.bias"]))  # (B,L,E)
    a = -torch.exp(p["A_log"])  # (E,N)
    added = delta * u
    state = torch.zeros_like(a).expand(x.shape[0], -1, -1)  # (B,E,N)
    rows = []
    for t in range(x.shape[1]):
        state = torch.exp(delta[:, t, :, None] * a) * state + added[:, t, :, None] * b[:, t, None, :]
        rows.append((state @ c[:, t, :, None]).squeeze(-1))
    y = torch.stack(rows, dim=1) + p["D"] * u
    return F.linear(y * F.silu(z), p["out_proj.weight"])


def mamba2(x: Tensor, p: Parameters) -> Tensor:
    """x (B,L,D) -> (B,L,D); one group"""
    inner, heads = p["out_proj.weight"].shape[1], p["A_log"].shape[0]
    convolved = p["conv1d.weight"].shape[0]  # E + 2 N
    states = (convolved - inner) // 2
    z, xbc, dt = F.linear(x, p["in_proj.weight"]).split([inner, convolved, heads], dim=-1)
    u, b, c = conv_silu(xbc, p).split([inner, states, states], dim=-1)
    u = u.unflatten(-1, (heads, inner // heads))  # (B,L,H,P)
    delta = softplus(dt + p["dt_bias"])  # (B,L,H)
    decay = torch.exp(delta * -torch.exp(p["A_log"]))
    added = delta[..., None] * u
    state = x.new_zeros(x.shape[0], heads, inner // heads, states)  # (B,H,P,N)
    rows = []
    for t in range(x.shape[1]):
        state = decay[:, t, :, None, None] * state + added[:, t, :, :, None] * b[:, t, None, None, :]
        rows.append((state @ c[:, t, None, :, None]).squeeze(-1))
    y = torch.stack(rows, dim=1) + p["D"][:, None] * u
    return F.linear(rms_norm(y.flatten(-2) * F.silu(z), p["norm.weight"]), p["out_proj.weight"])


def logits(parameters: Parameters, ids: Tensor) -> Tensor:
    """ids (B,L) -> (B,L,V)"""
    embedding = parameters["backbone.embedding.weight"]
    x = F.embedding(ids, embedding)
    for layer in range(layers_of(parameters)):
        prefix = f"backbone.layers.{layer}."
        mixer = {name[len(prefix) + 6 :]: p for name, p in parameters.items() if name.startswith(prefix + "mixer.")}
        normed = rms_norm(x, parameters[prefix + "norm.weight"])
        x = x + (mamba1 if "x_proj.weight" in mixer else mamba2)(normed, mixer)
    return F.linear(rms_norm(x, parameters["backbone.norm_f.weight"]), embedding)


def layers_of(parameters: Parameters) -> int:
    found = (re.match(r"backbone\.layers\.(\d+)\.", name) for name in parameters)
    return 1 + max(int(match[1]) for match in found if match)
