"""Programs that walk through shops and say so: their visits are nobody's taste."""

from __future__ import annotations

import re
from functools import lru_cache

# Those who name themselves: crawlers, previews of links, speed tests, browsers without a window.
_NAMES = re.compile(
    r"(?<!cu)bot\b|bot[/;_-]|crawl|spider|slurp|preview|facebookexternalhit|whatsapp|lighthouse|headlesschrome|phantomjs|pingdom|"
    r"gtmetrix|bingbot|yandex\w*bot|baiduspider|petalbot|ahrefs|semrush|archive\.org|monitoring|uptime",
    re.IGNORECASE,
)


@lru_cache(maxsize=4096)
def is_bot(agent: str) -> bool:
    """Whether a user agent is that of a program that names itself so. A backend's own (curl, python) is none."""
    return _NAMES.search(agent) is not None
