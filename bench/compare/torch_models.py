"""The composite task's models as one writes them in PyTorch: the peers that compare_cpu.py times.

B batch, L length, D d_model, E d_inner, N d_state, K d_conv, R dt_rank, V vocabulary. Parameters have mamba_ssm's
names.
"""

from __future__ import annotations

from typing import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

D, E, N, K, R = 32, 64, 128, 4, 2
V, PADDED_V, LENGTH, LAYERS = 100, 104, 8, 2

Scan = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
Forward = Callable[[Tensor], Tensor]  # a model, or what a compiler made of it


# Both scans: u, delta and the result (B,E,L); a (E,N); b and c (B,N,L).
def scan_reference(u: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """mamba_ssm's selective_scan_ref: the same operations in the same order and layout, all decays and inputs first."""
    decay = torch.exp(torch.einsum("bel,en->beln", delta, a))
    added = torch.einsum("bel,bnl,bel->beln", delta, b, u)
    state = u.new_zeros(u.shape[0], E, N)
    outputs = []
    for t in range(u.shape[2]):
        state = decay[:, :, t] * state + added[:, :, t]
        outputs.append(torch.einsum("ben,bn->be", state, c[:, :, t]))
    return torch.stack(outputs, dim=2)


def scan_stepwise(u: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """The same loop with each step's decay and input made in it: no (B,E,L,N), so training is much faster."""
    scaled = delta * u
    state = u.new_zeros(u.shape[0], E, N)
    outputs = []
    for t in range(u.shape[2]):
        state = torch.exp(delta[:, :, t, None] * a) * state + scaled[:, :, t, None] * b[:, None, :, t]
        outputs.append((state @ c[:, :, t, None]).squeeze(2))
    return torch.stack(outputs, dim=2)


class RMSNorm(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5) * self.weight


def causal_conv(channels: int) -> nn.Conv1d:
    """Depthwise; pads at both ends, so its caller keeps the first L results."""
    return nn.Conv1d(channels, channels, K, groups=channels, padding=K - 1)


class Mamba1(nn.Module):
    def __init__(self, scan: Scan = scan_reference) -> None:
        super().__init__()
        self.scan = scan
        self.A_log = nn.Parameter(torch.arange(1.0, N + 1).log().repeat(E, 1))
        self.D = nn.Parameter(torch.ones(E))
        self.in_proj = nn.Linear(D, 2 * E, bias=False)
        self.conv1d = causal_conv(E)
        self.x_proj = nn.Linear(E, R + 2 * N, bias=False)
        self.dt_proj = nn.Linear(R, E)
        self.out_proj = nn.Linear(E, D, bias=False)

    def forward(self, normed: Tensor) -> Tensor:
        x, z = self.in_proj(normed).transpose(1, 2).chunk(2, dim=1)
        u = F.silu(self.conv1d(x)[..., : x.shape[2]])
        r, b, c = self.x_proj(u.transpose(1, 2)).split([R, N, N], dim=2)
        delta = F.softplus(self.dt_proj(r)).transpose(1, 2)
        b, c = b.transpose(1, 2).contiguous(), c.transpose(1, 2).contiguous()
        y = self.scan(u, delta, -torch.exp(self.A_log), b, c) + self.D[:, None] * u
        return self.out_proj((y * F.silu(z)).transpose(1, 2))


class Mamba2(nn.Module):
    """One head, in the quadratic form: at this length several times faster than a loop over time."""

    def __init__(self) -> None:
        super().__init__()
        self.dt_bias = nn.Parameter(torch.zeros(1))
        self.A_log = nn.Parameter(torch.empty(1).uniform_(1, 16).log())
        self.D = nn.Parameter(torch.ones(1))
        self.in_proj = nn.Linear(D, 2 * E + 2 * N + 1, bias=False)
        self.conv1d = causal_conv(E + 2 * N)
        self.norm = RMSNorm(E)
        self.out_proj = nn.Linear(E, D, bias=False)

    def forward(self, normed: Tensor) -> Tensor:
        length = normed.shape[1]
        z, xbc, dt = self.in_proj(normed).split([E, E + 2 * N, 1], dim=2)
        xbc = F.silu(self.conv1d(xbc.transpose(1, 2))[..., :length]).transpose(1, 2)
        x, b, c = xbc.split([E, N, N], dim=2)
        delta = F.softplus(dt + self.dt_bias)
        log_decay = torch.cumsum(delta * -torch.exp(self.A_log), dim=1)
        future = torch.ones(length, length, dtype=torch.bool).triu(1)
        # Masked before the exponential: above the diagonal it could overflow, and 0 times infinity is no gradient.
        decay = torch.exp((log_decay - log_decay.transpose(1, 2)).masked_fill(future, -torch.inf))
        y = (decay * (c @ b.transpose(1, 2))) @ (delta * x) + self.D * x
        return self.out_proj(self.norm(y * F.silu(z)))


class Block(nn.Module):
    def __init__(self, mixer: nn.Module) -> None:
        super().__init__()
        self.norm = RMSNorm(D)
        self.mixer = mixer

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mixer(self.norm(x))


class Backbone(nn.Module):
    def __init__(self, mixer: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.embedding = nn.Embedding(PADDED_V, D)
        self.layers = nn.ModuleList(Block(mixer()) for _ in range(LAYERS))
        self.norm_f = RMSNorm(D)


class CompositeModel(nn.Module):
    """Ids (B,L) to the last token's logits (B,V), the only ones computed. Initialised by the law with gamma 1."""

    def __init__(self, mixer: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.backbone = Backbone(mixer)
        for name, parameter in self.named_parameters():
            if "weight" in name and parameter.dim() >= 2:
                nn.init.normal_(parameter, std=1 / parameter.shape[0])
            elif "bias" in name:
                nn.init.zeros_(parameter)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.backbone.embedding(ids)
        for layer in self.backbone.layers:
            x = layer(x)
        return F.linear(self.backbone.norm_f(x[:, -1]), self.backbone.embedding.weight[:V])


class TrainingStep:
    """A call is a step; it returns the loss and the gradient's norm before clipping."""

    def __init__(self, model: nn.Module, ids: Tensor, labels: Tensor, forward: Forward) -> None:
        self.parameters = list(model.parameters())
        self.optimizer = torch.optim.AdamW(self.parameters, lr=2.5e-4, weight_decay=1e-2)
        self.forward, self.ids, self.labels = forward, ids, labels

    def __call__(self) -> tuple[Tensor, Tensor]:
        self.optimizer.zero_grad(set_to_none=True)
        loss = F.cross_entropy(self.forward(self.ids), self.labels)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        return loss.detach(), norm


class ForwardPass:
    """A call returns the loss and the logits' norm."""

    def __init__(self, model: nn.Module, ids: Tensor, labels: Tensor, forward: Forward) -> None:
        self.forward, self.ids, self.labels = forward, ids, labels

    def __call__(self) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            logits = self.forward(self.ids)
            return F.cross_entropy(logits, self.labels), logits.norm()
