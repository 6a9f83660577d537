"""The measurements on one device as JSON and as a Markdown table. Uses no torch and measures nothing."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

OUT_OF_TIME = "out of time"

UNITS = {"ms": "ms", "gb": "GB", "seconds": "s", "levels": "of 255 levels", "tflops": "TFLOP/s"}
"""Units by the last word of a value's name; `_fraction` becomes a percentage, anything else is a plain number."""


@dataclass(frozen=True)
class Line:
    """One measurement of a part."""

    name: str
    images_per_second: float | None = None
    ratio: float | None = None
    """Images per second over those of the part's reference line."""

    values: Mapping[str, float] = field(default_factory=dict)
    """Further numbers; the last word of a name is the unit."""

    outcome: Literal["measured", "passed", "not measured", "failed"] = "measured"
    reason: str = ""
    """Reason for a failure, or for not measuring."""


@dataclass
class Part:
    """The lines of one part measured so far."""

    name: str
    lines: Sequence[Line] = ()
    seconds: float = 0.0
    """Duration, set-up included."""

    error: str = ""
    """Error that ended the part early; empty for none."""


@dataclass
class Report:
    """All parts of a run, and the environment in which they were measured."""

    circumstances: Mapping[str, str]
    """Commit, device, driver, versions: by name."""

    parts: list[Part] = field(default_factory=list)

    @property
    def failed(self) -> bool:
        """Whether a part or a line failed."""
        return any(part.error or any(line.outcome == "failed" for line in part.lines) for part in self.parts)


def not_measured(name: str, reason: str) -> Line:
    """Return a line that was not measured."""
    return Line(name, outcome="not measured", reason=reason)


def failed(name: str, error: Exception) -> Line:
    """Return a line that failed with an error."""
    return Line(name, outcome="failed", reason=one_line(error))


def one_line(error: BaseException) -> str:
    """Return an error's class and the beginning of its message."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def to_json(report: Report) -> str:
    """Return all numbers, unrounded."""
    return json.dumps(dataclasses.asdict(report), indent=2) + "\n"


def to_markdown(report: Report) -> str:
    """Return a list of the environment's facts and one table of all parts."""
    facts = "\n".join(f"- {name}: {value}" for name, value in report.circumstances.items())
    rows = [row for part in report.parts for row in _rows(part)]
    table = "\n".join(_row(*cells) for cells in (HEADER, RULE, *rows))
    return f"# One device\n\n{facts}\n\n{table}\n"


HEADER = ("part", "", "images/s", "ratio", "")
RULE = ("---", "---", "---:", "---:", "---")


def _rows(part: Part) -> list[tuple[str, ...]]:
    rows = [_cells(line) for line in part.lines]
    if part.error:
        rows.append(("", "", "", f"failed: {part.error}"))
    rows = rows or [("", "", "", "not measured yet")]
    return [(part.name if i == 0 else "", *row) for i, row in enumerate(rows)]


def _cells(line: Line) -> tuple[str, ...]:
    rate = "" if line.images_per_second is None else shown(line.images_per_second)
    ratio = "" if line.ratio is None else f"{line.ratio:.2f}"
    remarks = [in_words(name, value) for name, value in line.values.items()]
    if line.outcome != "measured":
        remarks.insert(0, f"{line.outcome}: {line.reason}" if line.reason else line.outcome)
    return line.name, rate, ratio, ", ".join(remarks)


def shown(number: float) -> str:
    """Return a number with four digits; without decimals from 1,000 on."""
    return f"{number:,.0f}" if abs(number) >= 1000 else f"{number:.4g}"


def in_words(name: str, value: float) -> str:
    """Return a value with its name and unit: `text 0.5 ms` for 0.5 of `text_ms`."""
    stem, _, unit = name.rpartition("_")
    if unit == "fraction":
        return f"{stem.replace('_', ' ')} {value:.1%}"
    if unit in UNITS:
        return f"{stem.replace('_', ' ')} {value:.3g} {UNITS[unit]}".strip()
    return f"{name.replace('_', ' ')} {shown(value)}"


def _row(*cells: Any) -> str:
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"
