"""A language model of 130 million parameters: the rows, and mamba_ssm's steps as the peers."""

from __future__ import annotations

import gc
from dataclasses import dataclass
from typing import Any

from gpu_peers import Peer, Step, captured, in_a_line, note
from rows import Row, figure, ratio

BATCH, LENGTH = 8, 2048  # of gradients and prompts
STEPS = {"gradients": 4, "prefill": 10, "generate": 100}  # of a peer in a turn
LABELS = {"gradients": ("eager", "graph"), "prefill": ("eager", "graph"), "generate": ("graph",)}


@dataclass
class LanguageRow(Row):
    # what: gradients, prefill or generate, as our program names them
    precision: str = "float32"  # or bfloat16
    length: int = 1
    our_bytes: float | None = None  # of gradients: parameters, gradients and activations
    peer_bytes: float | None = None

    def cuda_name(self) -> str:
        mixer = self.mixer.lower().replace("-", "")
        sizes = f"{self.batch}/" if self.what == "generate" else f"{self.batch}/{self.length}/"
        return f"{self.what}/cuda/{self.precision.replace('float32', 'float')}/{mixer}_130M/{sizes}"

    def title(self) -> str:
        what = {
            "gradients": f"loss and gradients, {self.batch} x {self.length}",
            "prefill": f"prompt, {self.batch} x {self.length}",
            "generate": f"decoding, {self.batch} sequence{'s' if self.batch > 1 else ''}",
        }
        return f"{self.mixer}, {self.precision}: {what[self.what]}"

    def take_ours(self, milliseconds: list[float], counters: dict[str, float]) -> None:
        super().take_ours(milliseconds, counters)
        if self.what == "gradients":
            self.our_bytes = counters.get("held_bytes")

    def written(self, milliseconds: float | None) -> str:
        if self.what != "generate":
            return super().written(milliseconds)
        return figure(1e3 * self.batch / milliseconds if milliseconds else None, " tokens/s")

    def cells(self) -> list[list[str]]:
        lines = super().cells()
        if self.peer_bytes:
            memory = [figure(b / 1e9 if b else None, " GB") for b in (self.our_bytes, self.peer_bytes)]
            lines.append([f"{self.title()}, memory", memory[0], "eager", memory[1]])
            lines[-1] += [figure(ratio(self.peer_bytes, self.our_bytes)), ""]
        return lines


def language_rows() -> list[LanguageRow]:
    rows = []
    for mixer in ("Mamba-1", "Mamba-2", "Mamba-3"):
        for precision in ("float32", "bfloat16"):
            # The gradients first: their memory is measured, when nothing else has taken any.
            rows.append(LanguageRow("gradients", mixer, BATCH, 24, precision=precision, length=LENGTH))
            rows.append(LanguageRow("prefill", mixer, BATCH, 24, precision=precision, length=LENGTH))
            rows += [LanguageRow("generate", mixer, batch, 24, precision=precision) for batch in (1, 64)]
    return rows


class LanguagePeers:
    """Makes mamba_ssm's steps: one model at a time, for all rows of its mixer and precision."""

    def __init__(self, rows: list[LanguageRow], graphs: bool = True) -> None:
        """graphs: whether gradients and prompts are timed as a captured graph, too."""
        self.graphs = graphs
        self.model: Any = None
        self.model_of: tuple[str, str] | None = None
        self.bytes_before = 0
        from language_peers import compile_kernels

        compile_kernels(list(dict.fromkeys((row.mixer, row.precision) for row in rows)))

    def start(self, row: LanguageRow) -> dict[str, Peer]:
        """The row's peers, warmed up; notes in the row which are left out, and why. The last row's are gone."""
        peers: dict[str, Peer] = {}
        step: Step | None = None
        for label in LABELS[row.what]:
            if label == "graph" and row.what != "generate" and not self.graphs:
                continue
            note(f"{row.title()}: warming up {label}")
            try:
                # What decoding gives is a graph already, mamba_ssm's own.
                step = step or self.make_step(row)
                peers[label] = Peer(captured(step) if label != LABELS[row.what][0] else step, STEPS[row.what])
                peers[label].milliseconds()
                if row.what == "gradients" and label == "eager":
                    row.peer_bytes = self.measured_bytes(step)
            except Exception as error:  # whatever a compiler or a capture raises; the others go on
                peers.pop(label, None)
                row.left_out[label] = in_a_line(error)
                note(f"  left out: {row.left_out[label]}")
        return peers

    def make_step(self, row: LanguageRow) -> Step:
        import torch
        import language_peers

        if self.model_of != (row.mixer, row.precision):
            self.model = self.model_of = None
            free_memory()
            self.bytes_before = torch.cuda.memory_allocated()
            torch.manual_seed(0)
            self.model = language_peers.make_model(row.mixer, row.precision)
            self.model_of = (row.mixer, row.precision)
        self.model.zero_grad(set_to_none=True)  # they lie in the memory of the last row's graph
        free_memory()
        if row.what == "generate":
            return language_peers.generate(self.model, row.batch)
        make = language_peers.gradients if row.what == "gradients" else language_peers.prefill
        return make(self.model, row.batch, row.length)

    def measured_bytes(self, step: Step) -> float:
        """The most that a step has of tensors, the model's included; memory that PyTorch only keeps does not count."""
        import torch

        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        step()
        torch.cuda.synchronize()
        return float(torch.cuda.max_memory_allocated() - self.bytes_before)


def free_memory() -> None:
    import torch

    gc.collect()
    torch.cuda.empty_cache()
