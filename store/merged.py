"""How an erasure in the log says that it leaves no tombstone: in its context, which who does not know it passes over.

So does one of a visitor who became a user: nobody asked for it, what was done goes on as the user's, and there is one
of them for every sign-in. Whoever reads the log or the archive in its order forgets the visitor by the erasure itself.
"""

from __future__ import annotations

from collections.abc import Mapping

_NAME, _NONE = "tombstone", "none"
MERGED = {_NAME: _NONE}


def leaves_tombstone(context: Mapping[str, str] | None) -> bool:
    """Whether an erasure with this context leaves one."""
    return context is None or context.get(_NAME) != _NONE
