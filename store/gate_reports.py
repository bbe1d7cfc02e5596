"""What the gate found of a release: checks by name with figure and bound, beside the folder as `VERSION.gate.json`.

A release's folder is never changed once it is published, and the gate judges what was published: hence beside it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from store.durable import sync

SUFFIX = ".gate.json"
Outcome = Literal["passed", "refused", "not judged"]
OUTCOMES: tuple[Outcome, ...] = ("passed", "refused", "not judged")


@dataclass(frozen=True)
class Check:
    """One check of a release. says: a sentence with figure and bound; these two are None where there is none.

    What is not judged, for want of events or of a release to compare with, stands in nobody's way.
    """

    name: str
    outcome: Outcome
    says: str
    figure: float | None = None
    bound: float | None = None


def check(name: str, is_good: bool, says: str, figure: float | None = None, bound: float | None = None) -> Check:
    """A check that passed or was refused."""
    return Check(name, "passed" if is_good else "refused", says, figure, bound)


@dataclass(frozen=True)
class GateReport:
    """All checks of a release. champion: the release it was compared with, None where there was none to load."""

    version: str
    champion: str | None
    checks: Sequence[Check]
    examined_ms: int
    took_ms: int

    @property
    def passed(self) -> bool:
        return not self.refused()

    def refusal(self) -> str:
        """Why it must not be used, in a line; meaningless of one that passed."""
        return f"release {self.version}: refused: " + "; ".join(c.says for c in self.checks if c.outcome == "refused")

    def refused(self) -> list[str]:
        """Names of the checks it did not pass."""
        return [found.name for found in self.checks if found.outcome == "refused"]

    def as_json(self) -> dict[str, Any]:
        """What is kept and shown."""
        return {"passed": self.passed, **asdict(self)}

    def lines(self) -> list[str]:
        """The report as a person reads it."""
        against = f"compared with {self.champion}" if self.champion else "nothing to compare with"
        result = "passed" if self.passed else "refused"
        head = f"gate: release {self.version} {result} in {self.took_ms / 1000:.1f} s, {against}"
        return [head, *(f"  {found.outcome:10}  {found.name}: {found.says}" for found in self.checks)]


class GateReports:
    """The reports on the releases of a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def keep(self, report: GateReport) -> None:
        """Write it beside the release of its version, over an earlier one; there whole or not at all."""
        path = self._path(report.version)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        text = json.dumps(report.as_json(), indent=2, allow_nan=False)
        temporary.write_text(text + "\n")
        sync(temporary)
        temporary.rename(path)
        sync(self._folder)

    def read(self, version: str) -> GateReport | None:
        """The report on that release; None where no gate has seen it. Raises ValueError where it cannot be read."""
        path = self._path(version)
        try:
            raw = json.loads(path.read_text())
            checks = [Check(**found) for found in raw["checks"]]
            report = GateReport(raw["version"], raw["champion"], checks, int(raw["examined_ms"]), int(raw["took_ms"]))
        except FileNotFoundError:
            return None
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path.name} cannot be read: {error}") from error
        if any(found.outcome not in OUTCOMES for found in checks) or report.version != version:
            raise ValueError(f"{path.name} is no report on release {version}")
        return report

    def refusal(self, version: str) -> str | None:
        """Why the gate lets nobody use that release; None where it passed, or no gate has seen it."""
        try:
            report = self.read(version)
        except ValueError as error:
            return f"release {version}: {error}"
        return None if report is None or report.passed else report.refusal()

    def forget(self, version: str) -> None:
        """Delete the report on a release that is gone."""
        self._path(version).unlink(missing_ok=True)

    def _path(self, version: str) -> Path:
        return self._folder / f"{version}{SUFFIX}"
