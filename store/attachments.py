"""What a training attached to a release for people to look at, such as its learning curves."""

from __future__ import annotations

from pathlib import Path


class Attachments:
    """Of the releases in a folder. Read-only: `Releases.publish` writes them, and `Releases.load` checks them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, version: str, name: str) -> bytes | None:
        """The file's content as it is, unchecked; None where the release has none of that name. Raises OSError."""
        try:
            return (self._folder / version / name).read_bytes()
        except FileNotFoundError:
            return None
