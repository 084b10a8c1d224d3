"""mamba_ssm's language model of 130 million parameters, and what is timed of it. B batch, L length, V vocabulary.

bfloat16 is model.to(bfloat16): all weights and activations in 16 bits, the residual stream and the recurrences' sums in
float. Autocast is the other way: weights stay float32 and are rounded in every call. That holds twice the bytes and
takes longer, so that the peer is at its strongest without it; it also is what our BFloat16 does (weights stored in 16
bits). How exact both are is accuracy_gpu.py's matter.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

import mamba3_peer
from gpu_peers import Step, note

D_MODEL, LAYERS = 768, 24
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
# As the hub's mamba-130m and mamba2-130m; Mamba-3 with Mamba-2's sizes.
SSM: dict[str, dict[str, Any]] = {
    "Mamba-1": {"layer": "Mamba1", "d_state": 16},
    "Mamba-2": {"layer": "Mamba2", "d_state": 128, "headdim": 64},
    "Mamba-3": {"layer": "Mamba3", "d_state": 128, "headdim": 64},
}
# 50,277 tokens, padded to a multiple of 8 and of 16.
VOCABULARY = {"Mamba-1": 50280, "Mamba-2": 50288, "Mamba-3": 50288}
COMPILE_SECONDS = 300.0  # after so many the rest is compiled by whoever needs it
COMPILE_BYTES = 6 << 30  # of the GPU, of a process


def make_model(mixer: str, precision: str, layers: int = LAYERS, vocabulary: int | None = None) -> Any:
    """Ids (B,L) to logits (B,L,V), with mamba_ssm's own initial values. vocabulary: a multiple of 8."""
    from mamba_ssm.models.config_mamba import MambaConfig
    from mamba_ssm.models.mixer_seq_simple import MambaLMHeadModel

    if mixer == "Mamba-3":
        mamba3_peer.install()
    size = vocabulary or VOCABULARY[mixer]
    config = MambaConfig(d_model=D_MODEL, n_layer=layers, vocab_size=size, ssm_cfg=SSM[mixer])
    return MambaLMHeadModel(config, device="cuda").to(DTYPES[precision])


def device_of(model: Any) -> Any:
    return next(model.parameters()).device


def some_tokens(model: Any, *shape: int) -> Tensor:
    # No operation's time depends on which token it gets: random ones will do.
    return torch.randint(model.config.vocab_size, shape, device=device_of(model))


def mean_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """The mean cross-entropy of all positions; in float, since log-probabilities of 16 bits have two digits."""
    return F.cross_entropy(logits.flatten(0, -2).float(), labels.flatten())


def gradients(model: Any, batch: int, length: int) -> Step:
    """Forward and backward with the loss of all positions."""
    ids, labels = some_tokens(model, batch, length), some_tokens(model, batch, length)

    def step() -> None:
        model.zero_grad(set_to_none=True)
        mean_loss(model(ids).logits, labels).backward()

    return step


def prefill(model: Any, batch: int, length: int) -> Step:
    """A prompt as generate() takes it: the logits behind it, and the states to go on with."""
    from mamba_ssm.utils.generation import InferenceParams

    ids = some_tokens(model, batch, length)
    with torch.inference_mode():
        states = model.allocate_inference_cache(batch, length + 1, next(model.parameters()).dtype)
    parameters = InferenceParams(max_seqlen=length + 1, max_batch_size=batch, key_value_memory_dict=states)

    @torch.inference_mode()
    def step() -> Any:
        return model(ids, inference_params=parameters, num_last_tokens=1).logits

    return step


def generate(model: Any, batch: int) -> Step:
    """A token for each sequence as generate(..., cg=True) decodes it: its own graph, the likeliest token, which stays
    on the device."""
    from mamba_ssm.utils.generation import sample, update_graph_cache

    length = 1 << 20  # a state has one size, however long its sequence is
    cache = update_graph_cache(model, None, batch, 1, length)
    tokens = some_tokens(model, batch, 1)
    position = 0

    @torch.inference_mode()
    def step() -> Any:
        nonlocal tokens, position
        position += 1
        positions = torch.full((batch, 1), position, dtype=torch.long, device=tokens.device)
        logits = cache.run(tokens, positions, position).squeeze(dim=1)
        tokens = sample(logits, top_k=1).unsqueeze(1)
        return tokens

    return step


def compile_kernels(kinds: list[tuple[str, str]]) -> None:
    """The Triton kernels of these (mixer, precision), by as many processes as there are cores and as the GPU has
    memory for, at least one of each (compile_kernels.py).

    A failure only costs time: what is not compiled then is compiled by whoever needs it.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    cores = max(1, min(cores, torch.cuda.mem_get_info()[0] // COMPILE_BYTES))
    few = [kind for kind in kinds if kind[0] == "Mamba-1"]  # its recurrence is no Triton kernel
    shares = max(1, (cores - len(few)) // max(1, len(kinds) - len(few)))
    jobs = [(*kind, number, of) for kind in kinds for of in [1 if kind in few else shares] for number in range(of)]
    begin = time.monotonic()
    note(f"{len(jobs)} processes compile mamba_ssm's kernels")
    script = str(Path(__file__).with_name("compile_kernels.py"))
    running = [
        subprocess.Popen([sys.executable, script, *map(str, job)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        for job in jobs
    ]
    for job, process in zip(jobs, running):
        try:
            said = process.communicate(timeout=max(1.0, begin + COMPILE_SECONDS - time.monotonic()))[1]
        except subprocess.TimeoutExpired:
            process.kill()
            said = b"took too long\n" + process.communicate()[1]
        if process.returncode:
            last = said.decode(errors="replace").strip().splitlines()[-1:]
            note(f"  {' '.join(map(str, job))}: exit code {process.returncode}: {' '.join(last)[:300]}")
    note(f"  {time.monotonic() - begin:.0f} s")
