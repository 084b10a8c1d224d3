#!/usr/bin/env python3
"""Measures how exact this library's bfloat16 is on a GPU beside mamba_ssm's, at the same weights.

    CUDAARCHS=90 cmake --preset release && cmake --build --preset release --target bench_cuda_accuracy
    python3 bench/compare/accuracy_gpu.py --json accuracy.json

Needs Python 3.9, PyTorch with CUDA, safetensors and mamba_ssm.

The model is a language model with d_model 768, vocabulary 50,280 and 4 layers (Mamba-1 with d_state 16, Mamba-2 with
d_state 128 and heads of 64). Its weights are mamba_ssm's own initial values, rounded to bfloat16: all of them, A_log, D
and the biases of the step sizes, too, which mamba_ssm's model.to(bfloat16) rounds as well. So nobody rounds a weight
any more: float64, both of mamba_ssm's ways and ours begin with the very same numbers, and what is measured is the
arithmetic and what is stored on the way. The tokens are drawn at random, 2 x 512. The loss is the mean cross-entropy of
the next token over the 511 positions of a sequence that have one.

Compared are the logits of all positions, as each gives them (mamba_ssm's are rounded to bfloat16, ours are float), and
the gradient of every parameter tensor, as each hands it to an optimiser (mamba_ssm's after .to(bfloat16) are rounded to
bfloat16, ours are float). An error is the Euclidean norm of the difference to float64's over the norm of float64's;
over several seeds (weights and tokens) the root of the mean square.

    ours        the policy BFloat16, by bench_cuda_accuracy
    mamba_ssm   model.to(bfloat16)
    autocast    mamba_ssm with weights in float32 (the same numbers) under torch.autocast: the usual way to train it;
                its gradients and its residual stream are float32
    float       ours in float, and mamba_ssm in float32, for comparison

Float64 is plain PyTorch, step by step (float64_model.py). It is compared with mamba_ssm in float32 first, with Triton's
products by three of TF32 instead of one; where they differ, nothing else is measured (exit code 3). Exit code 0 says
nothing about the errors: the last table does.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import tempfile
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Iterator

from gpu_peers import in_a_line, note, why_no_peer
from our_bench import BUILT, BenchError, run_program

VOCABULARY = 50280  # bench_cuda_accuracy's
TARGET = 1.2  # times mamba_ssm's error
BROKEN = 0.1  # a peer that is off by more does not work, and every ratio to it would look good
OURS, PEER, AUTOCAST, OUR_FLOAT, PEER_FLOAT = "ours", "mamba_ssm", "autocast", "ours, float", "mamba_ssm, float32"


def parse(arguments: list[str]) -> argparse.Namespace:
    summary, _, details = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    program = BUILT / "bench_cuda_accuracy"
    mixers = ["Mamba-1", "Mamba-2"]
    add("--bench", type=Path, default=program, metavar="PATH", help="our program (default: that of this clone)")
    add("--mixer", nargs="+", choices=mixers, default=mixers, help="(default: both)")
    add("--layers", type=int, default=4, metavar="N", help="(default: %(default)s)")
    add("--batch", type=int, default=2, metavar="B", help="sequences (default: %(default)s)")
    add("--length", type=int, default=512, metavar="L", help="of a sequence (default: %(default)s)")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="S", help="(default: 0 1 2)")
    bound = "how far float64's logits may be from mamba_ssm's in float32 (default: %(default)s); gradients ten times"
    add("--bound", type=float, default=1e-5, metavar="E", help=bound)
    add("--json", type=Path, metavar="FILE", help="write all errors of all seeds")
    options = parser.parse_args(arguments)
    if min(options.layers, options.batch) < 1 or options.length < 2:
        parser.error("--layers and --batch must be positive, --length at least 2")
    if options.json and not options.json.absolute().parent.is_dir():
        parser.error(f"--json {options.json}: there is no such folder")
    return options


@dataclass
class Evaluation:
    """What a model gives for some tokens."""

    logits: Any  # (B * L, V)
    gradients: dict[str, Any]  # by mamba_ssm's names


def evaluate(forward: Callable[[Any], Any], parameters: dict[str, Any], ids: Any) -> Evaluation:
    """forward: ids (B,L) to logits (B,L,V); the loss is taken in float of logits of 16 bits."""
    import torch
    from torch.nn import functional as F

    logits = forward(ids)
    exact = logits if logits.dtype == torch.float64 else logits.float()
    F.cross_entropy(exact[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()
    return Evaluation(logits.detach().flatten(0, 1), {name: p.grad for name, p in parameters.items()})


def initial_weights(mixer: str, layers: int, seed: int) -> dict[str, Any]:
    """mamba_ssm's initial values as bfloat16, the tied head once."""
    import torch
    from language_peers import make_model

    torch.manual_seed(seed)
    model = make_model(mixer, "float32", layers, VOCABULARY)
    return {name: p.detach().bfloat16() for name, p in model.named_parameters()}


def by_float64(weights: dict[str, Any], ids: Any) -> Evaluation:
    from float64_model import logits

    parameters = {name: weight.double().requires_grad_() for name, weight in weights.items()}
    return evaluate(lambda tokens: logits(parameters, tokens), parameters, ids)


def by_mamba_ssm(mixer: str, precision: str, weights: dict[str, Any], ids: Any, autocast: bool = False) -> Evaluation:
    import torch
    from float64_model import layers_of
    from language_peers import make_model

    model = make_model(mixer, precision, layers_of(weights), VOCABULARY)
    model.load_state_dict({**weights, "lm_head.weight": weights["backbone.embedding.weight"]})

    def forward(tokens: Any) -> Any:
        with torch.autocast("cuda", torch.bfloat16) if autocast else nullcontext():
            return model(tokens).logits

    return evaluate(forward, dict(model.named_parameters()), ids)


@contextmanager
def exact_products() -> Iterator[None]:
    """Meanwhile Triton multiplies floats by three products of TF32 instead of one."""
    name = "TRITON_F32_DEFAULT"
    before = os.environ.get(name)
    os.environ[name] = "tf32x3"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def by_us(program: Path, mixer: str, precision: str, folder: Path) -> Evaluation:
    from safetensors.torch import load_file

    kind = mixer.lower().replace("-", "")
    result = folder / "result.safetensors"
    files = [folder / "weights.safetensors", folder / "inputs.safetensors", result]
    note("  " + run_program(program, kind, precision, *map(str, files)).strip())
    tensors = load_file(str(result), device="cuda")
    result.unlink()
    gradients = {name[len("grad.") :]: tensor for name, tensor in tensors.items() if name.startswith("grad.")}
    return Evaluation(tensors["logits"], gradients)


def relative_errors(got: Evaluation, expected: Evaluation) -> dict[str, float]:
    from reference_check import relative_error

    if got.gradients.keys() != expected.gradients.keys():
        raise BenchError(f"other parameters than float64's: {got.gradients.keys() ^ expected.gradients.keys()}")
    errors = {"logits": relative_error(got.logits, expected.logits)}
    return errors | {name: relative_error(got.gradients[name], g) for name, g in expected.gradients.items()}


def worst_gradient(errors: dict[str, float]) -> tuple[float, str]:
    return max((error, name) for name, error in errors.items() if name != "logits")


class Disagreement(Exception):
    """Float64 and mamba_ssm do not compute the same: one of them is nothing to compare with."""


def measure(options: argparse.Namespace, mixer: str, seed: int) -> dict[str, dict[str, float]]:
    """The errors of the logits and of each gradient, by who made them."""
    import torch
    from safetensors.torch import save_file

    weights = initial_weights(mixer, options.layers, seed)
    ids = torch.randint(VOCABULARY, (options.batch, options.length), device="cuda")
    expected = by_float64(weights, ids)
    errors: dict[str, dict[str, float]] = {}
    with exact_products():
        errors[PEER_FLOAT] = relative_errors(by_mamba_ssm(mixer, "float32", weights, ids), expected)
    of_logits, (of_gradient, name) = errors[PEER_FLOAT]["logits"], worst_gradient(errors[PEER_FLOAT])
    said = f"float64 and mamba_ssm in float32: logits {of_logits:.1e}, worst gradient {of_gradient:.1e} ({name})"
    note(f"{mixer}, seed {seed}: {said}")
    if not (of_logits <= options.bound and of_gradient <= 10 * options.bound):  # nor when it is no number
        raise Disagreement(f"{mixer}, seed {seed}: {said}; allowed are {options.bound} and ten times that (--bound)")
    errors[PEER] = relative_errors(by_mamba_ssm(mixer, "bfloat16", weights, ids), expected)
    if not errors[PEER]["logits"] <= BROKEN:
        raise Disagreement(f"{mixer}, seed {seed}: mamba_ssm's logits in bfloat16 are off by {errors[PEER]['logits']}")
    try:
        errors[AUTOCAST] = relative_errors(by_mamba_ssm(mixer, "float32", weights, ids, autocast=True), expected)
    except Exception as error:  # whatever a kernel raises that does not take what autocast gives it
        note(f"  without autocast: {in_a_line(error)}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_file({name: weight.contiguous() for name, weight in weights.items()}, str(folder / "weights.safetensors"))
        save_file({"input_ids": ids.int()}, str(folder / "inputs.safetensors"))
        for whose, precision in ((OURS, "bfloat16"), (OUR_FLOAT, "float")):
            errors[whose] = relative_errors(by_us(options.bench, mixer, precision, folder), expected)
    return errors


def mean_errors(seeds: list[dict[str, dict[str, float]]]) -> dict[str, dict[str, float]]:
    """The root of the mean square over the seeds, of whoever gave errors for all of them."""
    whose = [name for name in seeds[0] if all(name in errors for errors in seeds)]

    def mean(who: str, tensor: str) -> float:
        return math.sqrt(sum(errors[who][tensor] ** 2 for errors in seeds) / len(seeds))

    return {who: {tensor: mean(who, tensor) for tensor in seeds[0][who]} for who in whose}


def errors_table(mixer: str, errors: dict[str, dict[str, float]]) -> str:
    """A line for the logits and for each parameter's gradient."""

    def over(tensor: str, whose: str) -> list[str]:
        if whose not in errors:
            return ["-", "-"]
        return [f"{errors[whose][tensor]:.2e}", f"{errors[OURS][tensor] / errors[whose][tensor]:.2f}"]

    lines = [f"| {mixer} | ours | mamba_ssm | ratio | autocast | ratio | ours, float | mamba_ssm, float32 |"]
    lines.append("|---" * 8 + "|")
    for tensor, error in errors[OURS].items():
        cells = [tensor.replace("backbone.", ""), f"{error:.2e}", *over(tensor, PEER), *over(tensor, AUTOCAST)]
        cells += [f"{errors[whose][tensor]:.1e}" for whose in (OUR_FLOAT, PEER_FLOAT)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def summary_table(all_errors: dict[str, dict[str, dict[str, float]]]) -> str:
    """Logits, the worst gradient of each side, and the tensor for which we are worst beside them; by mixer."""
    lines = [f"| | ours | mamba_ssm | ratio | at most {TARGET} |", "|---|---|---|---|---|"]
    for mixer, errors in all_errors.items():
        for peer in (PEER, AUTOCAST):
            if peer not in errors:
                continue
            beside = "" if peer == PEER else f", beside {peer}"
            (ours, our_name), (theirs, their_name) = worst_gradient(errors[OURS]), worst_gradient(errors[peer])
            ratios = {name: error / errors[peer][name] for name, error in errors[OURS].items()}
            ratio, name = worst_gradient(ratios)
            compared = [
                ("logits", f"{errors[OURS]['logits']:.2e}", f"{errors[peer]['logits']:.2e}", ratios["logits"]),
                ("worst gradient", f"{ours:.2e} ({our_name})", f"{theirs:.2e} ({their_name})", ours / theirs),
                (f"worst ratio ({name})", f"{errors[OURS][name]:.2e}", f"{errors[peer][name]:.2e}", ratio),
            ]
            for what, left, right, value in compared:
                verdict = "yes" if value <= TARGET else "no"
                cells = [f"{mixer}{beside}: {what}", left, right, f"{value:.2f}", verdict]
                lines.append(f"| {' | '.join(cells)} |".replace("backbone.", ""))
    return "\n".join(lines)


def run(options: argparse.Namespace) -> int:
    run_program(options.bench, "--help")  # that it is there is found out before minutes have gone by
    reason = why_no_peer()
    if reason:
        note(f"nothing to compare with: {reason}")
        return 2
    import mamba_ssm
    import torch
    from compile_kernels import share

    torch.backends.cuda.matmul.allow_tf32 = False  # which some installations allow
    # Which configuration of a kernel runs decides the order of sums in float, not what is rounded to 16 bits: the
    # smallest one will do, and Triton compiles and times no others, which would take minutes.
    with share(0, 0):
        seeds = {mixer: [measure(options, mixer, seed) for seed in options.seeds] for mixer in options.mixer}
    errors = {mixer: mean_errors(measured) for mixer, measured in seeds.items()}
    for mixer in options.mixer:
        print(errors_table(mixer, errors[mixer]) + "\n")
    print(summary_table(errors))
    settings = {name: getattr(options, name) for name in ("layers", "batch", "length", "seeds")}
    settings |= {"device": torch.cuda.get_device_name(0), "torch": torch.__version__}
    settings["mamba_ssm"] = mamba_ssm.__version__
    print("\n" + ", ".join(f"{key} {value}" for key, value in settings.items()))
    if options.json:
        report = {"settings": settings, "errors": errors, "by_seed": seeds}
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    return 0


def main() -> int:
    try:
        return run(parse(sys.argv[1:]))
    except BenchError as error:
        note(str(error))
        return 2
    except Disagreement as error:
        note(f"nothing is measured: {error}")
        return 3


if __name__ == "__main__":
    sys.exit(main())
