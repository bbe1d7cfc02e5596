"""Write keys, each of a site, and the admin key.

A key in a page is no secret: it says whose events these are, bounds how many there may be, and can be replaced. The
admin key is one.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from serving.refusals import Refused

KEY_HEADER = b"x-ledstream-key"
_NAME, _KEY = re.compile(r"[\w.-]{1,64}"), re.compile(r"[\w.~-]{8,128}")


@dataclass(frozen=True)
class Sites:
    """Who may write, and who may change things.

    by_digest: sites by the digests of their write keys; empty where none is needed. admin: digest of the admin key.
    Without one, whoever reaches the server may change things where is_local, and nobody otherwise.
    """

    by_digest: Mapping[bytes, str] = field(default_factory=dict)
    admin: bytes | None = None
    is_local: bool = True

    @classmethod
    def of(cls, write_keys: str, admin_key: str, *, is_local: bool) -> Sites:
        """write_keys: site=key,site=key; a site may have several, all good. Raises ValueError that shows no key."""
        by_digest: dict[bytes, str] = {}
        for part in filter(None, (part.strip() for part in write_keys.split(","))):
            site, _, key = part.partition("=")
            if not _NAME.fullmatch(site) or not _KEY.fullmatch(key):
                raise ValueError("write keys are site=key,site=key, a key 8 to 128 letters, digits, or any of .~_-")
            other = by_digest.setdefault(_digest(key.encode()), site)
            if other != site:
                raise ValueError(f"sites {other} and {site} have the same write key")
        if admin_key and not _KEY.fullmatch(admin_key):
            raise ValueError("the admin key has 8 to 128 letters, digits, or any of .~_-")
        if admin_key and _digest(admin_key.encode()) in by_digest:
            raise ValueError("the admin key is a write key, too")
        return cls(by_digest, _digest(admin_key.encode()) if admin_key else None, is_local)

    def site_of(self, key: bytes) -> str:
        """Whose write key it is; "" where none is needed. Raises Refused (401)."""
        if not self.by_digest:
            return ""
        site = self.by_digest.get(_digest(key))
        if site is None:
            shown = key[:4].decode("latin-1") + "…" if key else None
            raise Refused("key", shown, "no write key of this server (header x-ledstream-key, or ?key=)", status=401)
        return site

    def check_admin(self, key: bytes, *, is_from_elsewhere: bool) -> None:
        """Raises Refused (401, 403) for who may not change things. is_from_elsewhere: a page of another origin asks."""
        if self.admin is not None:
            if not hmac.compare_digest(self.admin, _digest(key)):
                raise Refused("key", None, "this needs the admin key (header x-ledstream-key)", status=401)
        elif not self.is_local:
            raise Refused("key", None, "this needs an admin key, and LEDSTREAM_ADMIN_KEY is not set", status=403)
        elif is_from_elsewhere:  # any page that a browser on this machine shows could ask
            raise Refused("origin", None, "a page of another origin needs the admin key for this", status=403)


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
