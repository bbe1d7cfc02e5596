"""axe on a page of the browser: what keeps people from using it, as far as a program can tell."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.conftest import missing

AXE = Path(__file__).parents[1] / "clients/js/node_modules/axe-core/axe.min.js"
RUN = """async () => (await axe.run(document, {resultTypes: ["violations"]})).violations.map(
  ({id, help, nodes}) => `${id}: ${help}: ${nodes.map(({target}) => target.join(" ")).join(", ")}`)"""


def violations(page: Any) -> list[str]:
    """Rule, its sentence and the elements of each violation on a page as it stands. Skips the test without axe."""
    if not AXE.exists():
        missing("no axe: `npm ci` in clients/js (`make test` does it where npm is)")
    if not page.evaluate("!!window.axe"):
        page.evaluate(AXE.read_text(encoding="utf-8"))  # past the page's policy, which is not for tests
    found: list[str] = page.evaluate(RUN)
    return found
