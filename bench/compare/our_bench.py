"""Runs this library's benchmark program, a row at a time."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

BUILT = Path(__file__).resolve().parents[2] / "build/release/bench"
UNIT_MS = {"ns": 1e-6, "us": 1e-3, "ms": 1.0, "s": 1e3}


class BenchError(Exception):
    """Says what to do."""


class OurBench:
    def __init__(self, program: Path, environment: dict[str, str]) -> None:
        self.program, self.environment = program, environment
        self.rows = set(self.run("--benchmark_list_tests=true").split())

    def run(self, *options: str) -> str:
        try:
            command = [str(self.program.absolute()), *options]
            return subprocess.run(command, check=True, capture_output=True, text=True, env=self.environment).stdout
        except FileNotFoundError:
            raise BenchError(
                f"{self.program} does not exist. Build it with\n"
                f"  cmake --preset release && cmake --build --preset release --target {self.program.name}\n"
                "or say where it is: --bench PATH"
            ) from None
        except subprocess.CalledProcessError as error:
            raise BenchError(f"{self.program} failed with exit code {error.returncode}\n{error.stderr}") from None
        except OSError as error:
            raise BenchError(f"{self.program} cannot be run: {error.strerror}") from None

    def milliseconds(self, row: str) -> list[float]:
        """Three repetitions, the mean step of each."""
        output = self.run(f"--benchmark_filter=^{row}$", "--benchmark_repetitions=3", "--benchmark_format=json")
        results = [r for r in json.loads(output)["benchmarks"] if r.get("run_type") == "iteration"]
        if not results or any(r.get("error_occurred") for r in results):
            raise BenchError(f"{self.program} did not time {row}:\n{output}")
        return [r["real_time"] * UNIT_MS[r["time_unit"]] for r in results]
