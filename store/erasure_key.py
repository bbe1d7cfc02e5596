"""The secret behind erasures: what users are called once their ids are gone, and what signs their receipts."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from contextlib import suppress
from pathlib import Path

from store.durable import sync

KEY_FILE = "key"
NAME_BYTES = 16


class WrongErasureKey(ValueError):
    """What is there was written under another key; the sentence says where."""


class ErasureKey:
    """Of a secret of any length. fingerprint: tells one key from another, and nothing else."""

    def __init__(self, secret: bytes) -> None:
        self._naming, self._signing = _derived(secret, b"name"), _derived(secret, b"sign")
        self.fingerprint = _derived(secret, b"fingerprint")[:4].hex()

    def name(self, user_id: str) -> bytes:
        """NAME_BYTES that stand for the user: the same each time, and no way back to the id without the key."""
        return hashlib.blake2b(user_id.encode(), digest_size=NAME_BYTES, key=self._naming).digest()

    def sign(self, message: bytes) -> str:
        """HMAC-SHA256 of the message, hexadecimal."""
        return hmac.new(self._signing, message, hashlib.sha256).hexdigest()

    def has_signed(self, message: bytes, signature: str) -> bool:
        """Whether the signature is this key's, of this message."""
        return hmac.compare_digest(self.sign(message).encode(), signature.encode())


def erasure_key(secret: str, folder: Path) -> ErasureKey:
    """The key of this secret; where it is empty, of the one in the folder's file, drawn at its first use (mode 600)."""
    if secret:
        return ErasureKey(secret.encode())
    path = folder / KEY_FILE
    with suppress(FileNotFoundError):
        return ErasureKey(path.read_bytes())
    folder.mkdir(parents=True, exist_ok=True)
    drawn = folder / f".{KEY_FILE}-{os.getpid()}-{secrets.token_hex(4)}"
    with os.fdopen(os.open(drawn, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(secrets.token_hex(32).encode())
    sync(drawn)
    with suppress(FileExistsError):  # of several processes the first one's counts
        os.link(drawn, path)
    drawn.unlink()
    sync(folder)
    return ErasureKey(path.read_bytes())


def _derived(secret: bytes, purpose: bytes) -> bytes:
    return hmac.new(secret, b"ledstream erasure " + purpose, hashlib.sha256).digest()
