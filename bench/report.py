"""The table at the end: a line a claim, with every peer's figure, and whether the claim holds.

A ratio is the median of the rounds' ratios, each between figures of one round, to the peer that is
best by its median among those that the claim names. A claim may also be a limit that lsmkit has to
keep by itself.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from bench.engines import PEERS

Samples = Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class Line:
    work: str
    unit: str
    """"/s" (more is better), "ms", "µs", "MiB" or "×" (less is better)."""
    ours: float | None
    peers: dict[str, float] = field(default_factory=dict)
    ratio: float | None = None
    to: str = ""
    """The peer that the ratio is to."""
    target: str = ""
    is_met: bool | None = None
    """None where nothing is claimed, or nothing could be compared."""


class Report:
    def __init__(self) -> None:
        self.lines: list[Line] = []
        self.notes: list[str] = []

    def race(
        self,
        work: str,
        samples: Samples,
        target: float | None = None,
        *,
        against: Sequence[str] | None = None,
        ours: str = "lsmkit",
        unit: str = "/s",
    ) -> Line:
        """A claim beside peers: `target` times the best of `against` (of all, where none are
        named). Contestants that are no engine's name count as peers where `against` names them."""
        named = list(against if against is not None else PEERS)
        medians = {name: statistics.median(figures) for name, figures in samples.items()}
        more_is_better = unit == "/s"
        best = max if more_is_better else min
        there = [name for name in named if name in medians]
        ratio = None
        to = ""
        if there:
            to = best(there, key=medians.__getitem__)
            pairs = zip(samples[ours], samples[to], strict=True)
            ratio = statistics.median(a / b if more_is_better else b / a for a, b in pairs)
        return self._add(
            Line(
                work=work,
                unit=unit,
                ours=medians[ours],
                peers={name: medians[name] for name in medians if name in PEERS},
                ratio=ratio,
                to=to,
                target="" if target is None else f"{target:g}x",
                is_met=None if target is None or ratio is None else ratio >= target,
            )
        )

    def limit(
        self,
        work: str,
        value: float,
        most: float | None,
        unit: str,
        peers: Mapping[str, float] | None = None,
    ) -> Line:
        """A claim that needs no peer: `value` is at most so much."""
        return self._add(
            Line(
                work=work,
                unit=unit,
                ours=value,
                peers=dict(peers or {}),
                target="" if most is None else f"<= {figure(most, unit)}",
                is_met=None if most is None else value <= most,
            )
        )

    def note(self, text: str) -> None:
        """A sentence below the table."""
        self.notes.append(text)

    def _add(self, line: Line) -> Line:
        self.lines.append(line)
        return line

    def to_json(self) -> list[dict[str, Any]]:
        return [asdict(line) for line in self.lines]

    def __str__(self) -> str:
        head = ["work", "lsmkit", *PEERS, "ratio", "best peer", "target", ""]
        rows = [head]
        for line in self.lines:
            rows.append(
                [
                    line.work,
                    figure(line.ours, line.unit),
                    *(figure(line.peers.get(peer), line.unit) for peer in PEERS),
                    "" if line.ratio is None else f"{line.ratio:.2f}x",
                    line.to,
                    line.target,
                    {True: "met", False: "MISSED", None: ""}[line.is_met],
                ]
            )
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        left = {0, len(head) - 1}
        lines = [
            "  ".join(
                cell.ljust(width) if i in left else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in rows
        ]
        lines.insert(1, "  ".join("-" * width for width in widths))
        claims = [line.is_met for line in self.lines if line.is_met is not None]
        lines += ["", f"{sum(claims)} of {len(claims)} claims met", *self.notes]
        return "\n".join(lines)


def figure(value: float | None, unit: str) -> str:
    """Three digits and a unit; a dash for what was not measured."""
    if value is None:
        return "-"
    if unit == "/s":
        for factor, letter in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
            if value >= factor:
                return f"{_digits(value / factor)}{letter}/s"
        return f"{_digits(value)} /s"
    return f"{_digits(value)} {unit}"


def _digits(value: float) -> str:
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"
