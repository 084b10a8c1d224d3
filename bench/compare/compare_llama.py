#!/usr/bin/env python3
"""Times this library beside llama.cpp on the CPU, in one run: 130 million parameters, prompts and decoding.

    cmake --preset release -DMAMBA_NATIVE=ON && cmake --build --preset release --target bench_language_model
    pip install gguf llama-cpp-python        # the second is compiled for this machine
    python3 bench/compare/compare_llama.py --rounds 3

24 layers, d_model 768, vocabulary 50,280; Mamba-1 with d_state 16, Mamba-2 with d_state 128 and heads of 64. Weights of
both are random (the peer's in a GGUF file that is written first). Precisions beside each other: float and F32, BFloat16
and BF16, Int8Weights and Q8_0 (blocks of 32 with a scale each; the peer rounds activations to 8 bits, too, ours are
float, and the small matrices of the steps, which it leaves in F32, are of 8 bits). Ours uses the processor's matrix unit
where there is one; the peer's own kernels for it are left out, since they end the process (llama_peer.py). Ours and the
peer take turns, round after round, on as many threads as there are cores; quoted are medians over
the rounds of each turn's median, and beside their ratio that of the fastest. The peer's time holds one call of its C
interface from Python, some microseconds.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
from pathlib import Path

import gguf_model
from our_bench import BUILT, BenchError, OurBench
from rows import Times

OURS = {"F32": "float", "BF16": "bfloat16", "Q8_0": "int8"}


def note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def parse() -> argparse.Namespace:
    summary, _, details = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(description=summary, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--bench", type=Path, default=BUILT / "bench_language_model", metavar="PATH", help="our program (default: that of this clone)")
    add("--rounds", type=int, default=3, metavar="N", help="turns of ours and of the peer (default: %(default)s)")
    add("--mixer", nargs="+", choices=("mamba1", "mamba2"), default=["mamba1", "mamba2"], help="default: both")
    add("--precision", nargs="+", choices=gguf_model.PRECISIONS, default=list(gguf_model.PRECISIONS), help="the peer's (default: all)")
    add("--json", type=Path, metavar="FILE", help="write every turn's medians")
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error("--rounds must be positive")
    return options


def run(options: argparse.Namespace) -> int:
    try:
        from llama_peer import Llama, LlamaError
        import gguf  # noqa: F401
        import llama_cpp
    except ImportError as error:
        note(f"a package is missing ({error}): pip install gguf llama-cpp-python")
        return 2
    ours = OurBench(options.bench, dict(os.environ))
    cores = len(os.sched_getaffinity(0))
    if (load := os.getloadavg()[0]) > 0.5:
        note(f"the machine is busy (load {load:.1f})")
    table: dict[str, tuple[Times, Times, int]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for mixer in options.mixer:
            for precision in options.precision:
                path = Path(folder) / f"{mixer}-{precision}.gguf"
                note(f"{mixer}, {precision}: writing the peer's file")
                gguf_model.write(path, mixer, precision)
                try:
                    peer = Llama(path, cores, 256)
                except LlamaError as error:
                    note(str(error))
                    continue
                try:
                    for turn in range(options.rounds):
                        for what, tokens in (("decode", 1), ("prefill", 256)):
                            name = f"{what}/cpu/{OURS[precision]}/{mixer}_130M/threads:0"
                            name += ("/length:256" if what == "prefill" else "") + "/real_time"
                            us, them, _ = table.setdefault(f"{mixer}, {what}, {precision}", (Times(), Times(), tokens))
                            us.add(ours.milliseconds(name))
                            them.add(peer.decode_ms(60) if what == "decode" else peer.prompt_ms(256, 3))
                            note(f"  {what}, round {turn + 1}, ms: ours {us.turns_ms[-1]:.2f}, llama.cpp {them.turns_ms[-1]:.2f}")
                except LlamaError as error:
                    note(str(error))
                finally:
                    peer.close()
                path.unlink()
    print("| | ours, tokens/s | llama.cpp, tokens/s | ratio | of the fastest |\n|---|---|---|---|---|")
    for row, (us, them, tokens) in table.items():
        a, b = us.median_ms(), them.median_ms()
        if a and b and us.fastest_ms and them.fastest_ms:
            rates = f"{1e3 * tokens / a:,.1f} | {1e3 * tokens / b:,.1f}"
            print(f"| {row} | {rates} | {b / a:.2f} | {them.fastest_ms / us.fastest_ms:.2f} |")
    cpuinfo = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*:\s*(.*)", cpuinfo.read_text()) if cpuinfo.exists() else None
    print("\nThe peer without its kernels for matrix units, which end the process; ours with them.")
    print(f"{cores} cores of {model[1] if model else 'a processor'}, llama-cpp-python {llama_cpp.__version__}, load before {load:.1f}")
    if options.json:
        report = {row: {"ours_ms": us.turns_ms, "llama_ms": them.turns_ms} for row, (us, them, _) in table.items()}
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(run(parse()))
    except BenchError as error:
        note(str(error))
        sys.exit(2)
