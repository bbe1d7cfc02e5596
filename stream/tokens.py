"""What a post is told of its events, so that a question can wait for them: which log, and how far it must be read.

Opaque to who is given one: 16 to 30 letters for a single event, 8 to 12 more for each further partition of a batch.
Only the last event of a partition counts. A post of 1,000 events in 1,000 partitions gets the longest one there is,
11 KB, which the server still takes in a URL; usual topics have 4 to 64 partitions.
"""

from __future__ import annotations

import binascii
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import msgpack

from stream.log import Position

VERSION = 1
MAX_CHARACTERS = 16_000
_SEAL_BYTES = 2


class BadToken(ValueError):
    """Text that is no token of this program, or was cut or altered; the sentence says which."""


class Token(NamedTuple):
    """log: `mark_of` its identity. ends: by partition, the next offset once everything is in."""

    log: int
    ends: Mapping[int, int]

    @classmethod
    def of(cls, log_identity: int, positions: Iterable[Position]) -> Token:
        """The token of entries that lie there."""
        ends: dict[int, int] = {}
        for partition, offset in positions:
            ends[partition] = max(offset + 1, ends.get(partition, 0))
        return cls(mark_of(log_identity), ends)

    def encode(self) -> str:
        """The token as text for a URL."""
        body: bytes = msgpack.packb([VERSION, self.log, *(number for pair in self.ends.items() for number in pair)])
        return urlsafe_b64encode(body + _seal(body)).decode().rstrip("=")


def decode_token(text: str) -> Token:
    """The token in a text. Raises BadToken."""
    if not 0 < len(text) <= MAX_CHARACTERS:
        raise BadToken(f"{len(text)} characters, 1 to {MAX_CHARACTERS} are possible")
    try:
        data = urlsafe_b64decode(text.encode("ascii") + b"=" * (-len(text) % 4))
        body, seal = data[:-_SEAL_BYTES], data[-_SEAL_BYTES:]
        fields = msgpack.unpackb(body) if seal == _seal(body) else None
    except (ValueError, msgpack.UnpackException):  # binascii's error is one, and what no ASCII causes
        fields = None
    if not isinstance(fields, list) or not all(type(field) is int and field >= 0 for field in fields):
        raise BadToken("no token, or not the whole of one")
    if len(fields) < 4 or len(fields) % 2 or fields[0] != VERSION:
        raise BadToken(f"a token of another version than {VERSION}")
    return Token(fields[1], dict(zip(fields[2::2], fields[3::2], strict=True)))


def mark_of(log_identity: int) -> int:
    """Enough of `Log.identity` to tell logs apart."""
    return log_identity & 0xFFFFFFFF


def _seal(body: bytes) -> bytes:
    return binascii.crc_hqx(body, 0).to_bytes(_SEAL_BYTES, "big")
