"""What the data doctor says: single findings, and the report that holds them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

__all__ = ["DoctorReport", "Finding", "Severity", "worst_first"]

Severity = Literal["error", "warning", "note"]
_RANK: dict[str, int] = {"note": 0, "warning": 1, "error": 2}


@dataclass(frozen=True)
class Finding:
    """One fault of a data set, or one thing worth knowing.

    Attributes:
        check: name of the check, e.g. "stress unit".
        severity: "error" (do not train on it), "warning" (something must be decided) or "note".
        message: what was found, with numbers and units.
        frames: numbers of the structures concerned, counted from 0 in the list that was examined.
        size: size of the fault in the unit that the message states; 0 where none applies.
        remedy: what to do.
    """

    check: str
    severity: Severity
    message: str
    frames: tuple[int, ...]
    size: float
    remedy: str


@dataclass(frozen=True)
class DoctorReport:
    """All findings on one data set, the worst first.

    Attributes:
        n_frames: number of structures examined.
        source: the file or files they come from.
        findings: sorted by severity.
        overview: what the set is, lines by title.
    """

    n_frames: int
    source: str
    findings: tuple[Finding, ...]
    overview: Mapping[str, str] = field(default_factory=dict)

    @property
    def worst(self) -> Severity | None:
        """Highest severity found; None without findings."""
        return self.findings[0].severity if self.findings else None

    def of(self, check: str) -> tuple[Finding, ...]:
        """Findings of one check."""
        return tuple(finding for finding in self.findings if finding.check == check)

    def to_text(self) -> str:
        """Plain text for a terminal or a log."""
        counts = {name: sum(f.severity == name for f in self.findings) for name in reversed(_RANK)}
        total = ", ".join(f"{n} {name}{'s' * (n != 1)}" for name, n in counts.items())
        lines = [f"{self.source}: {self.n_frames} structures, {total}"]
        lines += [f"  {title}: {text}" for title, text in self.overview.items()]
        for finding in self.findings:
            lines.append(f"\n{finding.severity.upper()} {finding.check}: {finding.message}")
            if finding.frames:
                many = f"{len(finding.frames)} of {self.n_frames}"
                lines.append(f"  frames ({many}): {_ranges(finding.frames)}")
            if finding.remedy:
                lines.append(f"  remedy: {finding.remedy}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """The same as plain Python types, ready for JSON."""
        return {
            "source": self.source,
            "n_frames": self.n_frames,
            "worst": self.worst,
            "overview": dict(self.overview),
            "findings": [asdict(f) | {"frames": list(f.frames)} for f in self.findings],
        }


def worst_first(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Sort by severity; the order of the checks is kept within one severity."""
    return tuple(sorted(findings, key=lambda finding: -_RANK[finding.severity]))


def _ranges(frames: tuple[int, ...], most: int = 12) -> str:
    """Numbers as "0-5, 9"; long lists are cut, the whole is in `Finding.frames`."""
    parts: list[list[int]] = []
    for number in sorted(frames):
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    texts = [str(a) if a == b else f"{a}-{b}" for a, b in parts]
    return ", ".join(texts[:most]) + (f", ... ({len(texts) - most} more ranges)" if len(texts) > most else "")
