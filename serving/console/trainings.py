"""How releases were made, with the curves of those that were learned step by step."""

from __future__ import annotations

import json
from typing import Any

from serving.console.shapes import Curve, Training
from store.releases import Releases, UnknownRelease

STORY = "training.json"  # as trainings attach it


def trainings(releases: Releases) -> list[Training]:
    """Newest first; a release whose description cannot be read is left out."""
    found = []
    for version in reversed(releases.versions()):
        try:
            info = releases.info(version)
        except (ValueError, UnknownRelease):  # BadRelease is a ValueError
            continue
        told = {**_story(releases, version), "version": version, "created_ms": info.created_ms, "about": info.about}
        found.append(Training(**told))
    return found


def _story(releases: Releases, version: str) -> dict[str, Any]:
    """The curves and what they took; none where nothing readable tells of them."""
    try:
        raw = releases.attachments.read(version, STORY)
        story = json.loads(raw) if raw is not None else {}
        curves = [Curve(**{name: one[name] for name in Curve.model_fields}) for one in story.get("curves", ())]
        kept = {name: story[name] for name in ("cpu_seconds", "peak_mb", "versions") if name in story}
    except (OSError, ValueError, TypeError, AttributeError, KeyError):
        return {"curves": []}
    return {**kept, "curves": curves}
