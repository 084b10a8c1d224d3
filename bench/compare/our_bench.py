"""Runs this library's benchmark program, a row at a time."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

BUILT = Path(__file__).resolve().parents[2] / "build/release/bench"
UNIT_MS = {"ns": 1e-6, "us": 1e-3, "ms": 1.0, "s": 1e3}


class BenchError(Exception):
    """Says what to do."""


def run_program(program: Path, *options: str, environment: dict[str, str] | None = None) -> str:
    """What one of our programs prints."""
    try:
        command = [str(program.absolute()), *options]
        return subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
    except FileNotFoundError:
        raise BenchError(
            f"{program} does not exist. Build it with\n"
            f"  cmake --preset release && cmake --build --preset release --target {program.name}\n"
            "or say where it is: see --help"
        ) from None
    except subprocess.CalledProcessError as error:
        raise BenchError(f"{program} failed with exit code {error.returncode}\n{error.stderr}") from None
    except OSError as error:
        raise BenchError(f"{program} cannot be run: {error.strerror}") from None


class OurBench:
    def __init__(self, program: Path, environment: dict[str, str], *turn: str) -> None:
        """turn: the options of a turn; three repetitions unless they say otherwise."""
        self.program, self.environment = program, environment
        self.turn = turn or ("--benchmark_repetitions=3",)
        self.rows = set(self.run("--benchmark_list_tests=true").split())

    def run(self, *options: str) -> str:
        return run_program(self.program, *options, environment=self.environment)

    def milliseconds(self, row: str) -> list[float]:
        """The mean step of each repetition."""
        return self.measure(row)[0]

    def measure(self, row: str) -> tuple[list[float], dict[str, float]]:
        """The same, and all numbers that the last repetition gave: the row's counters are among them."""
        output = self.run(f"--benchmark_filter=^{row}$", *self.turn, "--benchmark_format=json")
        results = [r for r in json.loads(output)["benchmarks"] if r.get("run_type") == "iteration"]
        if not results or any(r.get("error_occurred") for r in results):
            raise BenchError(f"{self.program} did not time {row}:\n{output}")
        numbers = {name: float(value) for name, value in results[-1].items() if isinstance(value, (int, float))}
        return [r["real_time"] * UNIT_MS[r["time_unit"]] for r in results], numbers
