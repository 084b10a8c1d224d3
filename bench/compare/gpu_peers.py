"""What the peers on a GPU have in common: how a step is timed and captured, and why there may be no peer."""

from __future__ import annotations

import sys
from typing import Any, Callable

Step = Callable[[], Any]


def note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def in_a_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


class Peer:
    """A step of mamba_ssm, timed by the device's events."""

    def __init__(self, step: Step, steps: int = 20) -> None:
        """steps: in a turn."""
        import torch

        self.torch, self.step, self.steps = torch, step, steps

    def milliseconds(self) -> list[float]:
        cuda = self.torch.cuda
        marks = [cuda.Event(enable_timing=True) for _ in range(self.steps + 1)]
        marks[0].record()
        for mark in marks[1:]:
            self.step()
            mark.record()
        cuda.synchronize()
        return [begin.elapsed_time(end) for begin, end in zip(marks, marks[1:])]


def captured(step: Step) -> Step:
    """The step as a CUDA graph, after some on a stream beside, as a capture asks for."""
    import torch

    beside = torch.cuda.Stream()
    beside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(beside):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(beside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def why_no_peer() -> str | None:
    try:
        import torch

        if not torch.cuda.is_available():
            return "PyTorch sees no GPU"
        import mamba_ssm  # noqa: F401
    except Exception as error:  # a broken installation raises anything
        return in_a_line(error)
    return None
