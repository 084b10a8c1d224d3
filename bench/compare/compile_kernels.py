#!/usr/bin/env python3
"""Compiles a share of the Triton kernels of mamba_ssm's language model: compile_kernels.py MIXER PRECISION NUMBER OF

Triton tries every configuration of a kernel at its first call and compiles them one after the other: about two hundred
for Mamba-2, which takes minutes. They can be compiled by many processes at once, of which each takes every OF-th one
from NUMBER on: all find the result where Triton keeps it (TRITON_CACHE_DIR). Which one is the fastest is not asked
here but by whoever runs them. language_peers.compile_kernels starts the processes.
"""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import Any, Callable, Iterator


def cost(config: Any) -> int:
    """What a configuration takes of a multiprocessor, roughly."""
    blocks = 1
    for name, value in config.kwargs.items():
        blocks *= value if name.startswith("BLOCK_SIZE") else 1
    return blocks * int(config.num_stages or 1)


@contextmanager
def share(number: int, of: int) -> Iterator[None]:
    """Meanwhile Triton tries only such a share of every kernel's configurations, and does not measure them.

    The cheapest one is in every share, since a share must hold one that runs: large ones may need more shared memory
    than there is. With of = 0 there is no other.
    """
    from triton.runtime.autotuner import Autotuner

    all_configurations = Autotuner.prune_configs

    def some(self: Any, arguments: Any) -> list[Any]:
        configurations = all_configurations(self, arguments)
        return [*(configurations[number::of] if of else []), min(configurations, key=cost)]

    def once(call: Callable[[], Any], quantiles: Any = None) -> list[float]:
        call()
        return [0.0, 0.0, 0.0]

    saved = {name: Autotuner.__dict__[name] for name in ("prune_configs", "do_bench")}
    Autotuner.prune_configs = some
    Autotuner.do_bench = property(lambda self: once)
    try:
        yield
    finally:
        for name, value in saved.items():
            setattr(Autotuner, name, value)


def main() -> int:
    if len(sys.argv) != 5:
        print(__doc__, file=sys.stderr)
        return 2
    mixer, precision = sys.argv[1:3]
    import torch
    from language_peers import generate, gradients, make_model, prefill

    with share(int(sys.argv[3]), int(sys.argv[4])):
        # Two layers are enough: the first one has no residual stream before it, all others are alike.
        model = make_model(mixer, precision, layers=2, vocabulary=256)
        gradients(model, 8, 2048)()
        prefill(model, 8, 2048)()
        for batch in (1, 64):
            generate(model, batch)()
        torch.cuda.synchronize()
    return 0


if __name__ == "__main__":
    sys.exit(main())
