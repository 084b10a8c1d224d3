"""Makes compare_cpu.py's peers, warms them up, and lets only those through that agree."""

from __future__ import annotations

import math
import sys
import time
from functools import partial
from typing import Callable

import torch
from torch import Tensor, nn

from rows import Row
from torch_models import LENGTH, V, CompositeModel, ForwardPass, Mamba1, Mamba2, TrainingStep, scan_stepwise

SLOW_BATCH = 1024  # from here on --skip-slow leaves selective_scan_ref out
TURN_SECONDS = 2.0  # a turn repeats a step for as long, but takes it at least once

MIXERS: dict[tuple[str, str], Callable[[], nn.Module]] = {
    ("Mamba-1", "selective_scan_ref"): Mamba1,
    ("Mamba-1", "stepwise scan"): partial(Mamba1, scan_stepwise),
    ("Mamba-2", "quadratic form"): Mamba2,
}


def why_no_compile() -> str | None:
    return None if hasattr(torch, "compile") else f"torch {torch.__version__} has none, 2.0 and newer have"


class Peer:
    def __init__(self, step: Callable[[], tuple[Tensor, Tensor]], compiled: bool) -> None:
        """Warms up: once when a step takes long, else (or when the first one had to compile) twice."""
        self.step = step
        self.numbers: list[float] = []
        seconds = self.seconds()
        if compiled or seconds < TURN_SECONDS:
            seconds = self.seconds()
        self.calls = max(1, min(100, int(TURN_SECONDS / seconds)))

    def seconds(self) -> float:
        begin = time.perf_counter()
        numbers = self.step()
        seconds = time.perf_counter() - begin
        self.numbers = self.numbers or [float(number) for number in numbers]  # the first step's
        return seconds

    def milliseconds(self) -> list[float]:
        return [1e3 * self.seconds() for _ in range(self.calls)]


def make(row: Row, mixer: Callable[[], nn.Module], compiled: bool) -> Peer:
    # No operation's time depends on which token it gets: random ones will do.
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(V, (row.batch, LENGTH), generator=generator)
    labels = torch.randint(V, (row.batch,), generator=generator)
    torch.manual_seed(0)
    model = CompositeModel(mixer)
    forward = torch.compile(model, dynamic=False) if compiled else model
    kind = TrainingStep if row.what == "training_step" else ForwardPass
    return Peer(kind(model, ids, labels, forward), compiled)


def start(row: Row, skip_slow: bool, compile_too: bool) -> dict[str, Peer]:
    """The row's peers, ready to be timed; notes in the row which are left out, and why."""
    peers: dict[str, Peer] = {}
    if compile_too:
        torch._dynamo.reset()  # past eight compiled models of one class it would give up without a word
    for (mixer_name, variant), mixer in MIXERS.items():
        if mixer_name != row.mixer:
            continue
        for compiled in (False, True) if compile_too else (False,):
            label = f"{'compiled' if compiled else 'eager'}, {variant}"
            if skip_slow and not compiled and variant == "selective_scan_ref" and row.batch >= SLOW_BATCH:
                row.left_out[label] = "--skip-slow"
                continue
            print(f"{row.title()}: warming up {label}", file=sys.stderr, flush=True)
            try:
                peer = make(row, mixer, compiled)
            except Exception as error:  # a compiler may raise anything; the other peers go on
                row.left_out[label] = " ".join(f"{type(error).__name__}: {error}".split())[:200]
                print(f"  left out: {row.left_out[label]}", file=sys.stderr)
                continue
            first = next(iter(peers.values()), peer).numbers
            if all(math.isclose(a, b, rel_tol=1e-4) for a, b in zip(first, peer.numbers)):
                peers[label] = peer
            else:
                row.left_out[label] = f"loss and norm {peer.numbers}, but {first} by {next(iter(peers))}"
                print(f"  left out: {row.left_out[label]}", file=sys.stderr)
    return peers
