"""Kinds of values that settings of several sections share: ports, durations, sizes, rates, networks. Pure."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta

MIB = 1024 * 1024

LOOPBACK = ("127.0.0.0/8", "::1/128")
PRIVATE = (
    *LOOPBACK, "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "fc00::/7", "fe80::/10",
)  # fmt: skip

Port = Annotated[int, Meta(ge=0, le=65_535)]
Ms = Annotated[int, Meta(ge=0, le=86_400_000)]
PositiveMs = Annotated[int, Meta(ge=1, le=86_400_000)]
Size = Annotated[int, Meta(ge=0)]
ConnectionLimit = Annotated[int, Meta(ge=1, le=1_000_000)]
Rate = Annotated[float, Meta(ge=0, le=1_000_000)]
Burst = Annotated[float, Meta(ge=1, le=1_000_000)]
Network = Annotated[str, Meta(extra={"allowed": 'an address or network such as "10.0.0.0/8" or "fd00::/8"'})]
NamedHost = Annotated[
    str,
    Meta(
        pattern=r"^(\*|(\*\.)?[0-9A-Za-z_]([0-9A-Za-z_.-]*[0-9A-Za-z])?|\[[0-9A-Fa-f:.]+\])$",
        extra={"allowed": 'a host name or address without scheme and port, "*.example.org" for all below it, or "*"'},
    ),
]
Label = Annotated[
    str,
    Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$", extra={"allowed": "1 to 63 letters, digits, '.', '_' and '-'"}),
]

Version = Annotated[
    str, Meta(pattern=r"^[!-~]{0,128}$", extra={"allowed": "at most 128 visible ASCII characters without spaces"})
]


def about(text: str, **bounds: float) -> Meta:
    """The one line of help of a setting, and its bounds (`ge`, `gt`, `le`, `lt`)."""
    options: dict[str, Any] = {"description": text, **bounds}
    return Meta(**options)
