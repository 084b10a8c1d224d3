#!/usr/bin/env python3
"""Times this library beside mamba_ssm on a GPU, in one run, and prints a Markdown table with the ratios.

    cmake --preset release && cmake --build --preset release --target bench_cuda_training
    python3 bench/compare/compare_gpu.py --rounds 3 --json compare.json

    cmake --build --preset release --target bench_cuda_language_model
    python3 bench/compare/compare_gpu.py --rows language --quick --json language.json

Needs Python 3.9, PyTorch with CUDA and mamba_ssm (without mamba_ssm it says so and times ours alone). Ours and the
peers take turns, round after round. Quoted are medians over the rounds, and beside their ratio that of the fastest
steps. Ours is our program's row of the same name. There are two sets of rows:

--rows composite: the composite function task, float32: d_model 32, d_state 128, d_conv 4, expand 2, length 8, Mamba-2
with one head. A training step is zero_grad, forward, backward, clip_grad_norm 1, fused AdamW; ours draws its batch on
the device as well. The peer computes the head for the last token alone, as ours does.

    eager   operation by operation
    graph   the whole step captured in a CUDA graph: the peer at its strongest

--reference DIR first compares the peer with reference numbers (format: reference_check.py); a peer that does not
compute the same is not timed.

--rows language: a language model of 130 million parameters (24 layers, d_model 768, vocabulary 50,277, padded; Mamba-1
with d_state 16, Mamba-2 with d_state 128 and heads of 64) in float32 and in bfloat16.

    decoding             a token for each sequence, the likeliest; the peer's step is the graph that generate(...,
                         cg=True) captures, and its tokens stay on the device, while ours come to the host
    prompt               8 x 2048 tokens, the logits behind them and the states to go on with
    loss and gradients   8 x 2048 tokens, the mean cross-entropy of all positions; memory is what parameters, gradients
                         and activations take at most: by our program's count, and by PyTorch's of its tensors

The peer in bfloat16 is model.to(bfloat16); language_peers.py says why. In float32 its products are exact but for those
inside Mamba-2's recurrence, which Triton does in TF32; ours are exact all. First its kernels are compiled by as many
processes as there are cores, without which Triton takes minutes for Mamba-2.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Callable, Sequence

from composite_rows import CompositePeers, composite_rows
from gpu_peers import Peer, note, why_no_peer
from language_rows import LanguagePeers, language_rows
from our_bench import BUILT, BenchError, OurBench
from rows import Row, Times, figure, table


def parse(arguments: list[str]) -> argparse.Namespace:
    summary, _, details = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    kinds = ("composite", "language", "all")
    add("--rows", choices=kinds, default=kinds[0], help="which set (see below; default: %(default)s)")
    add("--match", default="", metavar="REGEX", help="only rows in whose title it is found ('Mamba-2, bf')")
    program, language = BUILT / "bench_cuda_training", BUILT / "bench_cuda_language_model"
    add("--bench", type=Path, default=program, metavar="PATH", help="our program (default: that of this clone)")
    add("--language-bench", type=Path, default=language, metavar="PATH", help="our program for language models")
    add("--rounds", type=int, default=3, metavar="N", help="turns of ours and of each peer (default: %(default)s)")
    add("--quick", action="store_true", help="two rounds, and one repetition of ours in each: some minutes in all")
    add("--no-graphs", action="store_true", help="of language models' gradients and prompts the eager peer alone")
    add("--layers", type=int, nargs="+", default=[2, 5, 7], metavar="L", help="of composite steps (default: 2 5 7)")
    add("--json", type=Path, metavar="FILE", help="write the settings, every round's times and the medians")
    add("--reference", type=Path, metavar="DIR", help="first compare the peer with the reference numbers there")
    options = parser.parse_args(arguments)
    if options.rounds < 1 or min(options.layers) < 1:
        parser.error("--rounds and --layers must be positive")
    if options.json and not options.json.absolute().parent.is_dir():
        parser.error(f"--json {options.json}: there is no such folder")
    if options.quick:
        options.rounds = min(options.rounds, 2)
    return options


@dataclass
class Part:
    """Rows of one of our programs, and what makes the peers: an object whose start(row) warms up the row's."""

    ours: OurBench
    rows: Sequence[Row]
    make_peers: Callable[[], Any]


def parts(options: argparse.Namespace) -> list[Part]:
    environment = dict(os.environ)
    turn = ["--benchmark_repetitions=1" if options.quick else "--benchmark_repetitions=3"]

    def wanted(rows: Sequence[Any]) -> list[Any]:
        return [row for row in rows if re.search(options.match, row.title())]

    found = []
    if options.rows in ("composite", "all"):
        rows = wanted(composite_rows(options.layers))
        found.append(Part(OurBench(options.bench, environment, *turn), rows, lambda: CompositePeers(options.reference)))
    if options.rows in ("language", "all"):
        # Every repetition makes a new model; more time for each would go into steps that say nothing new.
        turn.append(f"--benchmark_min_time={0.1 if options.quick else 0.2}")
        models = wanted(language_rows())
        ours = OurBench(options.language_bench, environment, *turn)
        found.append(Part(ours, models, lambda: LanguagePeers(models, not options.no_graphs)))
    return [part for part in found if part.rows]


def take_turns(row: Row, ours: OurBench, running: dict[str, Peer], rounds: int) -> None:
    name = next((name for name in ours.rows if name.startswith(row.cuda_name())), None)
    if name is None:
        note(f"{row.title()}: {ours.program.name} has no row {row.cuda_name()}")
    for turn in range(rounds):
        if name:
            try:
                row.take_ours(*ours.measure(name))
            except BenchError as error:  # the other rows go on
                note(f"{row.title()}: {error}")
                name = None
        for label, peer in running.items():
            row.peers.setdefault(label, Times()).add(peer.milliseconds())
        last = [f"{label} {figure(times.turns_ms[-1])}" for label, times in row.peers.items()]
        if row.ours.turns_ms:
            last.insert(0, f"ours {row.ours.turns_ms[-1]:.3f}")
        note(f"{row.title()}, round {turn + 1}, ms: {'; '.join(last)}")


def run(options: argparse.Namespace) -> int:
    begin = time.monotonic()
    measured = parts(options)  # a program that is missing is said before minutes have gone by
    reason = why_no_peer()
    if reason:
        note(f"without mamba_ssm: {reason}")
    try:
        for part in measured:
            peers = None if reason else part.make_peers()
            for row in part.rows:
                take_turns(row, part.ours, peers.start(row) if peers else {}, options.rounds)
    except KeyboardInterrupt:
        note("interrupted: the table has what was measured until then")
    rows = [row for part in measured for row in part.rows]
    if reason:
        for row in rows:
            if row.ours.turns_ms:
                print(f"{row.title()}: {median(row.ours.turns_ms):.3f} ms")
    else:
        print(table(rows, "mamba_ssm"))
    settings = {**describe(options, reason), "seconds": round(time.monotonic() - begin)}
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
