"""mamba_ssm's Mamba-3 (its main branch of June 2026 and later): what its language model needs before it decodes.

A layer's step there is a kernel in CuTe, which wants a further 100 MB of packages, and is handed (B,1,D) where it takes
(B,D), so that generate() fails. mamba_ssm has the same step in Triton, in one kernel, which nothing calls. install()
puts that into the layer, in place of the step that does not run. States and angles are updated in place, last keys and
inputs copied behind the kernel, which reads the old keys after it has written the new ones. The first call tries
configurations on the states that it is given.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def step(
    self: Any, u: Tensor, angles: Tensor, state: Tensor, keys: Tensor, values: Tensor, **_: Any
) -> tuple[Tensor, ...]:
    """u (B,1,D) to (B,1,D): a token of each sequence, SISO. angles (B,H,Na), state (B,H,P,N), keys (B,1,H,N), values
    (B,H,P)."""
    from mamba_ssm.modules.mamba3 import heavy_tail_activation
    from mamba_ssm.ops.triton.mamba3.mamba3_siso_step import mamba3_siso_step_kernel

    batch, heads, width, n = u.shape[0], self.nheads, self.headdim, self.d_state
    sizes = [self.d_inner, self.d_inner, n * self.num_bc_heads, n * self.num_bc_heads, heads, heads, heads]
    parts = torch.split(self.in_proj(u.squeeze(1)), [*sizes, self.num_rope_angles], dim=-1)
    z, x, b, c, dt, rate, trap, angle = parts
    z, x = z.reshape(batch, heads, width).contiguous(), x.reshape(batch, heads, width).contiguous()
    b = self.B_norm(b.reshape(batch, self.num_bc_heads, n))
    c = self.C_norm(c.reshape(batch, self.num_bc_heads, n))
    dt = F.softplus(dt + self.dt_bias)
    decay = torch.clamp(-heavy_tail_activation(rate.float()), max=-self.A_floor) * dt
    angle, trap = angle.contiguous(), trap.contiguous()
    y = torch.empty_like(x)
    q_bias, k_bias = self.C_bias.squeeze(1), self.B_bias.squeeze(1)
    own_keys = keys.squeeze(1)
    new_keys = torch.empty_like(own_keys)
    gate = () if self.is_outproj_norm else z.stride()
    mamba3_siso_step_kernel[(heads, batch)](
        c, b, x, decay, dt, trap, q_bias, k_bias, angle, self.D, None if self.is_outproj_norm else z,
        angles, state, own_keys, values, y, angles, state, new_keys,
        *c.stride(), *b.stride(), *x.stride(), *decay.stride(), *dt.stride(), *trap.stride(), *q_bias.stride(),
        *k_bias.stride(), angle.stride(0), 0, angle.stride(1), self.D.stride(0), *(gate or (0, 0, 0)),
        *angles.stride(), *state.stride(), *own_keys.stride(), *values.stride(),
        *y.stride(), *angles.stride(), *state.stride(), *new_keys.stride(),
        self.num_bc_heads, n, width, self.num_rope_angles, HAS_D=True, HAS_Z=not self.is_outproj_norm,
    )
    own_keys.copy_(new_keys), values.copy_(x)
    y = y.reshape(batch, -1)
    if self.is_outproj_norm:
        y = self.norm(y, z.reshape(batch, -1))
    return self.out_proj(y.to(u.dtype)).unsqueeze(1), angles, state, keys, values


def install() -> None:
    from mamba_ssm.modules.mamba3 import Mamba3

    Mamba3.step = step
