"""A ledstream server from Python: events in, recommendations out."""

from ledstream_client.answers import (
    Activation,
    Consumer,
    Declined,
    Erasure,
    Found,
    Health,
    Item,
    Known,
    Merged,
    Period,
    Reason,
    Reasons,
    Recommendations,
    Release,
    Releases,
    Similar,
    Strike,
    TimelineEntry,
    User,
    Waited,
)
from ledstream_client.client import AsyncClient, Client
from ledstream_client.errors import (
    LedstreamError,
    NotAllowed,
    NotFound,
    Refused,
    Unavailable,
    UnexpectedAnswer,
    Unfinished,
)
from ledstream_client.events import Event
from ledstream_client.handing import Taken, Verdict
from ledstream_client.items import CatalogueItem
from ledstream_client.patience import Patience
from ledstream_client.sender import Counts, Sender
from ledstream_client.version import VERSION

__version__ = VERSION

__all__ = [
    "Activation",
    "AsyncClient",
    "CatalogueItem",
    "Client",
    "Consumer",
    "Counts",
    "Declined",
    "Erasure",
    "Event",
    "Found",
    "Health",
    "Item",
    "Known",
    "LedstreamError",
    "Merged",
    "NotAllowed",
    "NotFound",
    "Patience",
    "Period",
    "Reason",
    "Reasons",
    "Recommendations",
    "Refused",
    "Release",
    "Releases",
    "Sender",
    "Similar",
    "Strike",
    "Taken",
    "TimelineEntry",
    "Unavailable",
    "UnexpectedAnswer",
    "Unfinished",
    "User",
    "Verdict",
    "Waited",
    "__version__",
]
