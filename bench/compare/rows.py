"""What was measured, and the table of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any, Sequence


@dataclass
class Times:
    turns_ms: list[float] = field(default_factory=list)  # each turn's median
    fastest_ms: float | None = None

    def add(self, samples: list[float]) -> None:
        self.turns_ms.append(median(samples))
        self.fastest_ms = min(samples + ([self.fastest_ms] if self.fastest_ms else []))

    def median_ms(self) -> float | None:
        return median(self.turns_ms) if self.turns_ms else None


@dataclass
class Row:
    what: str  # training_step or forward
    mixer: str  # Mamba-1 or Mamba-2
    batch: int
    layers: int = 2
    ours: Times = field(default_factory=Times)
    peers: dict[str, Times] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)  # peer: why

    def bench_name(self, threads: int) -> str:
        mixer = self.mixer.lower().replace("-", "")
        return f"{self.what}/cpu/float/{mixer}/layers:2/batch:{self.batch}/threads:{threads}/real_time"

    def cuda_name(self) -> str:
        """How the row's name in our program for GPUs begins."""
        mixer = self.mixer.lower().replace("-", "")
        return f"{self.what}/cuda/float/{mixer}/layers:{self.layers}/batch:{self.batch}/"

    def title(self) -> str:
        layers = "" if self.layers == 2 else f", {self.layers} layers"
        return f"{self.mixer} {'forward pass' if self.what == 'forward' else 'training step'}{layers}, batch {self.batch}"

    def take_ours(self, milliseconds: list[float], counters: dict[str, float]) -> None:
        """A turn of ours: the times, and what our program counted beside them."""
        self.ours.add(milliseconds)

    def written(self, milliseconds: float | None) -> str:
        return figure(milliseconds, " ms")

    def cells(self) -> list[list[str]]:
        """The table's lines of this row: title, ours, the peer's name, the peer's, their ratio, that of the fastest."""
        lines = []
        for peer, numbers in self.report()["peers"].items():
            line = [self.title(), self.written(self.ours.median_ms()), peer, self.written(numbers["median_ms"])]
            lines.append([*line, figure(numbers["over_ours"]), figure(numbers["fastest_over_ours"])])
        return lines

    def report(self) -> dict[str, Any]:
        def numbers(times: Times) -> dict[str, Any]:
            return {
                **asdict(times),
                "median_ms": times.median_ms(),
                "over_ours": ratio(times.median_ms(), self.ours.median_ms()),
                "fastest_over_ours": ratio(times.fastest_ms, self.ours.fastest_ms),
            }

        peers = {peer: numbers(times) for peer, times in self.peers.items()}
        return {**asdict(self), "ours": numbers(self.ours), "peers": peers}


def ratio(above: float | None, below: float | None) -> float | None:
    return above / below if above and below else None


def figure(value: float | None, unit: str = "") -> str:
    if value is None:
        return "-"
    return (f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}") + unit


def table(rows: Sequence[Row], peers: str = "PyTorch") -> str:
    lines = [f"| | ours | {peers} | | {peers} / ours | of the fastest |", "|---|---|---|---|---|---|"]
    missing: dict[str, list[str]] = {}
    for row in rows:
        lines += [f"| {' | '.join(cells)} |" for cells in row.cells()]
        for peer, why in row.left_out.items():
            missing.setdefault(why, []).append(f"{row.title()}, {peer}")
    return "\n".join(lines + [f"\nLeft out: {'; '.join(names)}: {why}" for why, names in missing.items()])
