#!/usr/bin/env python3
"""Times this library beside mamba_ssm on a GPU, in one run, and prints a Markdown table with the ratios.

    cmake --preset release && cmake --build --preset release --target bench_cuda_training
    python3 bench/compare/compare_gpu.py --rounds 3 --json compare.json

Needs Python 3.9, PyTorch with CUDA and mamba_ssm (without mamba_ssm it says so and times ours alone). The task is the composite
function task: d_model 32, d_state 128, d_conv 4, expand 2, length 8, float32, Mamba-2 with one head. A training step is
zero_grad, forward, backward, clip_grad_norm 1, fused AdamW; ours draws its batch on the device as well. The peer computes the
head for the last token alone, as ours does.

    eager   operation by operation
    graph   the whole step captured in a CUDA graph: the peer at its strongest

Ours is bench_cuda_training's row of the same name. Ours and the peers take turns, round after round. Quoted are medians over the
rounds, and beside their ratio that of the fastest steps. --reference DIR first compares the peer with reference numbers (format:
reference_check.py); a peer that does not compute the same is not timed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Callable

from our_bench import BUILT, BenchError, OurBench
from rows import Row, Times, figure, table

STEPS = 20  # of the peer in a turn


def note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def parse(arguments: list[str]) -> argparse.Namespace:
    summary, _, details = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    program = BUILT / "bench_cuda_training"
    add("--bench", type=Path, default=program, metavar="PATH", help="our program (default: that of this clone)")
    add("--rounds", type=int, default=3, metavar="N", help="turns of ours and of each peer (default: %(default)s)")
    add("--layers", type=int, nargs="+", default=[2, 5, 7], metavar="L", help="of the training steps (default: 2 5 7)")
    add("--json", type=Path, metavar="FILE", help="write the settings, every round's times and the medians")
    add("--reference", type=Path, metavar="DIR", help="first compare the peer with the reference numbers there")
    options = parser.parse_args(arguments)
    if options.rounds < 1 or min(options.layers) < 1:
        parser.error("--rounds and --layers must be positive")
    if options.json and not options.json.absolute().parent.is_dir():
        parser.error(f"--json {options.json}: there is no such folder")
    return options


class Peer:
    """A step of mamba_ssm, timed by the device's events."""

    def __init__(self, step: Callable[[], Any]) -> None:
        import torch

        self.torch, self.step = torch, step

    def milliseconds(self) -> list[float]:
        cuda = self.torch.cuda
        marks = [cuda.Event(enable_timing=True) for _ in range(STEPS + 1)]
        marks[0].record()
        for mark in marks[1:]:
            self.step()
            mark.record()
        cuda.synchronize()
        return [begin.elapsed_time(end) for begin, end in zip(marks, marks[1:])]


def mamba_ssm_model(mixer: str, layers: int = 2) -> Any:
    """Ids (B,L) to the last token's logits (B,V), under mamba_ssm's names; initialised by the law with gamma 1."""
    from mamba_ssm.models.config_mamba import MambaConfig
    from mamba_ssm.models.mixer_seq_simple import MambaLMHeadModel
    from torch import nn
    from torch.nn import functional as F
    from torch_models import D, E, K, N, V

    ssm: dict[str, Any] = {"layer": mixer.replace("-", ""), "d_state": N, "d_conv": K, "expand": E // D}
    if mixer == "Mamba-2":
        ssm["headdim"] = E

    class Composite(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            config = MambaConfig(d_model=D, n_layer=layers, vocab_size=V, ssm_cfg=ssm)
            self.backbone = MambaLMHeadModel(config).backbone
            for name, parameter in self.named_parameters():
                if "weight" in name and parameter.dim() >= 2:
                    nn.init.normal_(parameter, std=1 / parameter.shape[0])
                elif "bias" in name:
                    nn.init.zeros_(parameter)

        def forward(self, ids: Any) -> Any:
            return F.linear(self.backbone(ids)[:, -1], self.backbone.embedding.weight[:V])

    return Composite()


def captured(step: Callable[[], Any]) -> Callable[[], Any]:
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


def start(row: Row) -> dict[str, Peer]:
    """The row's peers, warmed up; notes in the row which are left out, and why."""
    import torch
    from torch_models import LENGTH, V, ForwardPass, TrainingStep

    torch.manual_seed(0)
    ids = torch.randint(V, (row.batch, LENGTH), device="cuda")
    labels = torch.randint(V, (row.batch,), device="cuda")

    def make() -> Callable[[], Any]:
        model = mamba_ssm_model(row.mixer, row.layers).cuda()
        if row.what == "forward":
            return ForwardPass(model, ids, labels, model)
        step = TrainingStep(model, ids, labels, model)
        step.optimizer = torch.optim.AdamW(
            model.parameters(), lr=2.5e-4, weight_decay=1e-2, fused=True, capturable=True
        )
        return step

    peers: dict[str, Peer] = {}
    for label in ("eager", "graph"):
        try:
            step = make()
            for _ in range(3):
                step()
            peers[label] = Peer(captured(step) if label == "graph" else step)
            peers[label].milliseconds()
        except Exception as error:  # whatever a compiler or a capture raises; the others go on
            peers.pop(label, None)
            row.left_out[label] = in_a_line(error)
            note(f"{row.title()}: {label} left out: {row.left_out[label]}")
    return peers


def in_a_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


def why_no_peer() -> str | None:
    try:
        import torch

        if not torch.cuda.is_available():
            return "PyTorch sees no GPU"
        import mamba_ssm  # noqa: F401
    except Exception as error:  # a broken installation raises anything
        return in_a_line(error)
    return None


def why_not(mixer: str, reference: Path | None) -> str | None:
    """Why the peer cannot be timed, if it does not run or not compute what the reference numbers say."""
    if not reference:
        return None
    from reference_check import check

    try:
        agrees = check(reference, {(mixer, "mamba_ssm"): partial(mamba_ssm_model, mixer)}, note, "cuda")
        return None if agrees else "does not compute what the reference numbers say"
    except Exception as error:  # whatever a kernel or its compiler raises
        return in_a_line(error)


def run(options: argparse.Namespace) -> int:
    ours = OurBench(options.bench, dict(os.environ))
    reason = why_no_peer()
    if reason:
        note(f"without mamba_ssm: {reason}")
    unfit = {} if reason else {mixer: why_not(mixer, options.reference) for mixer in ("Mamba-1", "Mamba-2")}
    rows = [Row("training_step", mixer, 2048, layers) for mixer in ("Mamba-1", "Mamba-2") for layers in options.layers]
    rows += [Row("forward", mixer, 2048) for mixer in ("Mamba-1", "Mamba-2")]
    try:
        for row in rows:
            kind = row.mixer.lower().replace("-", "")
            start_of_name = f"{row.what}/cuda/float/{kind}/layers:{row.layers}/batch:{row.batch}/"
            name = next((name for name in ours.rows if name.startswith(start_of_name)), None)
            if name is None:
                note(f"{row.title()}: {options.bench.name} has no row {start_of_name}")
            if unfit.get(row.mixer):
                row.left_out["mamba_ssm"] = unfit[row.mixer]
            running = {} if reason or row.left_out else start(row)
            for turn in range(options.rounds):
                if name:
                    row.ours.add(ours.milliseconds(name))
                for label, peer in running.items():
                    row.peers.setdefault(label, Times()).add(peer.milliseconds())
                last = [f"{label} {figure(times.turns_ms[-1])}" for label, times in row.peers.items()]
                if row.ours.turns_ms:
                    last.insert(0, f"ours {row.ours.turns_ms[-1]:.3f}")
                note(f"{row.title()}, round {turn + 1}, ms: {'; '.join(last)}")
    except KeyboardInterrupt:
        note("interrupted: the table has what was measured until then")
    if reason:
        for row in rows:
            if row.ours.turns_ms:
                print(f"{row.title()}: {median(row.ours.turns_ms):.3f} ms")
    else:
        print(table(rows, "mamba_ssm"))
    settings = describe(options, reason)
    print("\n" + ", ".join(f"{key} {value}" for key, value in settings.items()))
    if options.json:
        report = {"settings": settings, "rows": [row.report() for row in rows]}
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    return 0


def describe(options: argparse.Namespace, reason: str | None) -> dict[str, Any]:
    settings: dict[str, Any] = {"rounds": options.rounds}
    try:
        import torch

        settings |= {"device": torch.cuda.get_device_name(0), "torch": torch.__version__}
        if not reason:
            import mamba_ssm

            settings["mamba_ssm"] = mamba_ssm.__version__
    except Exception as error:
        settings["torch"] = f"none ({type(error).__name__})"
    return settings


def main() -> int:
    try:
        return run(parse(sys.argv[1:]))
    except BenchError as error:
        note(str(error))
        return 2


if __name__ == "__main__":
    sys.exit(main())
