"""Where a server listens."""

from __future__ import annotations

import socket
from typing import Any


def tcp_socket(host: str, port: int) -> tuple[socket.socket, Any]:
    """A socket for the host, a name or an address of either version of IP, and what to bind it to.

    A name that has addresses of both is taken by its IPv4; `::` are all of this machine, IPv4 too. Raises OSError where
    the host is unknown.
    """
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, kind, protocol, _, address = min(found, key=lambda one: one[0] != socket.AF_INET)
    made = socket.socket(family, kind, protocol)
    if family == socket.AF_INET6:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, host != "::")
    return made, address
