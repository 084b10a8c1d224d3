#!/usr/bin/env python3
"""Times this library beside PyTorch on the CPU, in one run, and prints a Markdown table with the ratios.

    cmake --preset release && cmake --build --preset release --target bench_training
    python3 bench/compare/compare_cpu.py --rounds 3 --json compare.json

Needs Python 3.9 and PyTorch 1.13 or newer (Debian: python3-torch), nothing else. The task is the composite function
task: 2 layers, d_model 32, d_state 128, d_conv 4, expand 2, length 8, float32. A training step is zero_grad, forward,
backward, clip_grad_norm 1, AdamW; a forward pass gives the last token's logits.

The peers (torch_models.py), which all compute the same numbers:

    eager, selective_scan_ref   Mamba-1 with the scan that mamba_ssm has for reference
    eager, stepwise scan        the same loop written for speed
    eager, quadratic form       Mamba-2 with one head; at this length faster than a loop
    compiled, ...               each by torch.compile, where there is one (2.0) and it works (it needs a C++ compiler)

Ours is bench_training's row of the same name. Ours and the peers take turns, round after round, so that whatever else
the machine does meets all of them. Quoted are medians over the rounds, and beside their ratio that of the fastest
steps: where the two differ much, the machine was busy. Before timing, all peers of a row must agree in loss and
gradient norm; --reference DIR compares them with reference numbers too (format: reference_check.py).

What moves the peers' figures:
  * A busy core: PyTorch's threads meet after every operation, each time waiting for the slowest.
  * selective_scan_ref takes seconds a step and about 6 GB at batch 2048, most of the time for fresh pages from the
    system, since the C library returns tensors of 0.5 GB as soon as they are freed. --tuned lets it keep them (glibc),
    and flushes denormal numbers, which this library does too.
  * Debian's PyTorch multiplies by the system's BLAS, the slow reference one until libopenblas0-pthread is installed;
    PyTorch's own packages bring a fast one.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import sys
from functools import partial
from pathlib import Path
from typing import Any

from our_bench import BUILT, BenchError, OurBench
from rows import Row, Times, figure, table

KEEP_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 40)}  # read by the C library when it starts


def note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def parse(arguments: list[str]) -> argparse.Namespace:
    summary, _, details = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--bench", type=Path, default=BUILT / "bench_training", metavar="PATH", help="our program (default: that of this clone)")
    add("--rounds", type=int, default=3, metavar="N", help="turns of ours and of each peer (default: %(default)s)")
    batches = (
        "of the training step, the largest also of the forward pass; ours are timed where bench_training has such "
    )
    batches += "a row (default: 256 2048)"
    add("--batch", type=int, nargs="+", default=[256, 2048], metavar="B", help=batches)
    threads = (
        "1, or all cores (default); for another number start the script by 'taskset -c 0-3' or the like: what that "
    )
    threads += "allows is then all"
    add("--threads", type=int, default=0, metavar="N", help=threads)
    add("--json", type=Path, metavar="FILE", help="write the settings, every round's times and the medians")
    add("--skip-slow", action="store_true", help="leave out eager selective_scan_ref from batch 1024 on")
    add("--no-compile", action="store_true", help="leave out torch.compile, which takes minutes to warm up")
    add("--tuned", action="store_true", help="PyTorch at its best: keep freed memory, flush denormals (see below)")
    add("--reference", type=Path, metavar="DIR", help="first compare the peers with the reference numbers there")
    options = parser.parse_args(arguments)
    if options.threads not in (0, 1, cores()):
        parser.error(
            f"--threads {options.threads}: bench_training has rows for 1 and for all {cores()} cores (see --help)"
        )
    if options.rounds < 1 or min(options.batch) < 1:
        parser.error("--rounds and --batch must be positive")
    if options.json and not options.json.absolute().parent.is_dir():
        parser.error(f"--json {options.json}: there is no such folder")
    return options


def settings(options: argparse.Namespace, torch: Any) -> dict[str, Any]:
    cpuinfo = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*:\s*(.*)", cpuinfo.read_text()) if cpuinfo.exists() else None
    blas = re.search(r"BLAS_INFO=(\w+)", torch.__config__.show())
    return {
        "processor": model[1] if model else platform.processor(),
        "threads": torch.get_num_threads(),
        "rounds": options.rounds,
        "torch": torch.__version__,
        "torch_blas": blas[1] if blas else "unknown",
        "tuned": options.tuned,
    }


def run(options: argparse.Namespace) -> int:
    environment = {name: value for name, value in os.environ.items() if name not in KEEP_MEMORY}
    ours = OurBench(options.bench, environment)
    try:
        import torch
    except ImportError as error:
        note(
            f"PyTorch is missing ({error}). On Debian: apt-get install python3-torch, then "
            f"/usr/bin/python3 {sys.argv[0]}; elsewhere: pip install torch"
        )
        return 2
    import peers
    from torch_models import CompositeModel

    threads = options.threads or cores()
    load = os.getloadavg()[0]
    if load > 0.5:
        note(f"the machine is busy (load {load:.1f}), and PyTorch's threads, which wait for each other, suffer most")
    torch.set_num_threads(threads)
    torch.set_flush_denormal(options.tuned)
    if options.reference:
        from reference_check import check

        models = {name: partial(CompositeModel, mixer) for name, mixer in peers.MIXERS.items()}
        if not check(options.reference, models, note):
            note("the peers do not compute what the reference numbers say: nothing timed")
            return 3
    why_no_compile = "--no-compile" if options.no_compile else peers.why_no_compile()
    if why_no_compile:
        note(f"without torch.compile: {why_no_compile}")
    rows = [Row("training_step", mixer, batch) for mixer in ("Mamba-1", "Mamba-2") for batch in options.batch]
    rows += [Row("forward", mixer, max(options.batch)) for mixer in ("Mamba-1", "Mamba-2")]
    try:
        for row in rows:
            name = row.bench_name(1 if threads == 1 else 0)
            if name not in ours.rows:
                note(f"{row.title()}: bench_training has no row {name}")
            running = peers.start(row, options.skip_slow, not why_no_compile)
            for turn in range(options.rounds):
                if name in ours.rows:
                    row.ours.add(ours.milliseconds(name))
                for label, peer in running.items():
                    row.peers.setdefault(label, Times()).add(peer.milliseconds())
                last = [f"{label} {figure(times.turns_ms[-1])}" for label, times in row.peers.items()]
                if row.ours.turns_ms:
                    last.insert(0, f"ours {figure(row.ours.turns_ms[-1])}")
                note(f"{row.title()}, round {turn + 1}, ms: {'; '.join(last)}")
    except KeyboardInterrupt:
        note("interrupted: the table has what was measured until then")
    setting = {**settings(options, torch), "load_before": round(load, 1)}
    print(table(rows))
    print("\n" + ", ".join(f"{key} {value}" for key, value in setting.items()))
    if options.json:
        report = {"settings": setting, "rows": [row.report() for row in rows]}
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    return 0


def main() -> int:
    options = parse(sys.argv[1:])
    if options.tuned and any(os.environ.get(name) != value for name, value in KEEP_MEMORY.items()):
        os.execve(sys.executable, [sys.executable, __file__, *sys.argv[1:]], {**os.environ, **KEEP_MEMORY})
    try:
        return run(options)
    except BenchError as error:
        note(str(error))
        return 2


if __name__ == "__main__":
    sys.exit(main())
