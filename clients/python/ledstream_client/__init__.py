"""A ledstream server from Python: events in, recommendations out."""

from ledstream_client.answers import (
    Activation,
    Consumer,
    Health,
    Item,
    Merged,
    Reason,
    Reasons,
    Recommendations,
    Release,
    Releases,
    Similar,
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
from ledstream_client.events import Event, Tracked, Verdict
from ledstream_client.patience import Patience
from ledstream_client.sender import Counts, Sender
from ledstream_client.version import VERSION

__version__ = VERSION

__all__ = [
    "Activation",
    "AsyncClient",
    "Client",
    "Consumer",
    "Counts",
    "Event",
    "Health",
    "Item",
    "LedstreamError",
    "Merged",
    "NotAllowed",
    "NotFound",
    "Patience",
    "Reason",
    "Reasons",
    "Recommendations",
    "Refused",
    "Release",
    "Releases",
    "Sender",
    "Similar",
    "TimelineEntry",
    "Tracked",
    "Unavailable",
    "UnexpectedAnswer",
    "Unfinished",
    "User",
    "Verdict",
    "Waited",
    "__version__",
]
