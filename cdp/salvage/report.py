"""What was found, and how grave it is.

*damage*: stored bytes are not what was written. *note*: a state that a crash or a running writer may leave, or a fact
worth telling. Only damage makes a check fail.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

DAMAGE = "damage"
NOTE = "note"


@dataclass(frozen=True, slots=True)
class Finding:
    """One fact, named by file, LSN and extent (`start` and `sectors` in sectors of 512 bytes) as far as they are known."""

    severity: str
    file: str
    text: str
    segment: int | None = None
    lsn: int | None = None
    start: int | None = None
    sectors: int | None = None

    def line(self) -> str:
        """The finding as a line for people."""
        where = [self.file]
        if self.lsn is not None:
            where.append(f"LSN {self.lsn}")
        if self.start is not None:
            where.append(f"sectors {self.start}..{self.start + (self.sectors or 0)}")
        return f"{self.severity}: {', '.join(where)}: {self.text}"

    def json(self) -> dict[str, Any]:
        """The finding as a JSON object; what is unknown is left out."""
        return {key: value for key, value in asdict(self).items() if value is not None}


@dataclass(slots=True)
class Report:
    """The findings on one volume, in the order in which they were made; each is kept once."""

    findings: list[Finding] = field(default_factory=list)
    _seen: set[Finding] = field(default_factory=set)

    def add(self, finding: Finding) -> None:
        """Keeps a finding."""
        if finding not in self._seen:
            self._seen.add(finding)
            self.findings.append(finding)

    def damage(
        self,
        file: str,
        text: str,
        *,
        segment: int | None = None,
        lsn: int | None = None,
        start: int | None = None,
        sectors: int | None = None,
    ) -> None:
        """Keeps a finding of damage."""
        self.add(Finding(DAMAGE, file, text, segment, lsn, start, sectors))

    def note(self, file: str, text: str, *, segment: int | None = None, lsn: int | None = None) -> None:
        """Keeps a finding that is no damage."""
        self.add(Finding(NOTE, file, text, segment, lsn))

    @property
    def damaged(self) -> bool:
        """Whether any finding is damage."""
        return any(finding.severity == DAMAGE for finding in self.findings)
