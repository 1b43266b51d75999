"""Which settings a running process takes over when it reads them again, and what such a reload changes. Pure.

Rules:

- `RELOADED` is the one list: log lines and the reference page are made from it. What is not in it takes a restart.
- A setting that takes a restart keeps its value, so each reload names it again until the process is restarted.
- A process is concerned with the sections that it reads; what changes in others is no news for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, Literal, NamedTuple

import msgspec

from trunkline.settings.channels import ChannelRule
from trunkline.settings.sections import SECTIONS, Settings

When = Literal["at once", "new connections"]
"""For whom a new value counts: everybody, or those who connect from then on."""

NODE: Final = ("server", "admin", "limits", "channels", "auth", "bus", "log", "metrics")
"""What a node reads."""

BALANCER: Final = ("balancer", "admin", "bus", "kubernetes", "log")
"""What a relaying balancer reads."""

STEERING: Final = (*BALANCER, "traefik")
"""What a balancer that steers Traefik reads."""


class Reloaded(NamedTuple):
    """How a setting is taken over.

    Attributes:
        fits: whether this change of it can be; by default any.
        unless: what cannot be, in words.
    """

    when: When
    fits: Callable[[object, object], bool] = lambda before, now: True
    unless: str = ""

    @property
    def text(self) -> str:
        """For people."""
        return f"{self.when}, unless {self.unless}" if self.unless else self.when


def _keeps_alike(before: object, now: object) -> bool:
    return _kept(before) == _kept(now)


def _kept(rules: object) -> list[tuple[str, int | None, float | None]]:
    assert isinstance(rules, tuple)  # noqa: S101 - as declared
    return [(rule.pattern, rule.history, rule.history_age_s) for rule in rules if isinstance(rule, ChannelRule)]


def _both(before: object, now: object) -> bool:
    return before is not None and now is not None


_AT_ONCE: Final = Reloaded("at once")
_NEW: Final = Reloaded("new connections")

RELOADED: Final[Mapping[str, Reloaded]] = {
    "server.max_connections": _AT_ONCE,
    "server.memory_base_bytes": _AT_ONCE,
    "server.memory_per_connection_bytes": _AT_ONCE,
    "server.heartbeat_interval_ms": _AT_ONCE,
    "server.connection_timeout_ms": _AT_ONCE,
    "server.handshake_timeout_ms": _NEW,
    "server.close_timeout_ms": _AT_ONCE,
    "server.work_grace_ms": _AT_ONCE,
    "server.message_bytes": _NEW,
    "server.header_bytes": _NEW,
    "server.drain_ms": _AT_ONCE,
    "server.shutdown_deadline_ms": _AT_ONCE,
    "server.deflate": _NEW,
    "server.origins": _NEW,
    "server.hosts": _AT_ONCE,
    "server.trusted_proxies": _NEW,
    "server.metrics_networks": _AT_ONCE,
    "server.subprotocols": _NEW,
    "admin.token": _AT_ONCE,
    "admin.token_file": _AT_ONCE,
    "admin.tokens": _AT_ONCE,
    "limits.rate_burst": _NEW,
    "limits.rate_per_s": _NEW,
    "limits.control_burst": _AT_ONCE,
    "limits.control_per_s": _AT_ONCE,
    "limits.handshake_burst": _AT_ONCE,
    "limits.handshake_per_s": _AT_ONCE,
    "limits.http_burst": _AT_ONCE,
    "limits.http_per_s": _AT_ONCE,
    "limits.exempt": _AT_ONCE,
    "limits.outbox_bytes": _NEW,
    "limits.outbox_grace_ms": _AT_ONCE,
    "limits.channels_per_client": _AT_ONCE,
    "limits.channel_name_bytes": _AT_ONCE,
    "limits.accept_per_s": _AT_ONCE,
    "limits.loop_lag_shed_ms": _AT_ONCE,
    "channels.rules": Reloaded("at once", _keeps_alike, "a pattern or what is kept changes"),
    "auth.algorithms": _NEW,
    "auth.secret": _NEW,
    "auth.secret_file": _NEW,
    "auth.public_key_file": _NEW,
    "auth.jwks_url": _NEW,
    "auth.issuer": _NEW,
    "auth.audience": _NEW,
    "auth.leeway_s": _NEW,
    "auth.required": _NEW,
    "auth.require_exp": _NEW,
    "balancer.hosts": _AT_ONCE,
    "balancer.backends": _AT_ONCE,
    "balancer.metrics_networks": _AT_ONCE,
    "balancer.retries": _NEW,
    "balancer.idle_timeout_ms": _AT_ONCE,
    "balancer.body_bytes": _NEW,
    "balancer.max_connections": _AT_ONCE,
    "balancer.trusted_proxies": _NEW,
    "balancer.handshake_burst": _AT_ONCE,
    "balancer.handshake_per_s": _AT_ONCE,
    "balancer.connections_per_address": _NEW,
    "balancer.exempt": _AT_ONCE,
    "balancer.request_headers": _NEW,
    "balancer.response_headers": _NEW,
    "balancer.tls_cert_file": Reloaded("new connections", _both, "TLS is switched on or off"),
    "balancer.tls_key_file": _NEW,
    "balancer.tls_verify": _NEW,
    "balancer.tls_ca_file": _NEW,
    "balancer.tls_client_cert_file": _NEW,
    "balancer.tls_client_key_file": _NEW,
    "balancer.drain_ms": _AT_ONCE,
    "log.level": _AT_ONCE,
    "metrics.aliases": _AT_ONCE,
}
"""The settings that take no restart."""


class ReloadRecord:
    """How the last reload ended, for the series; a start, `at` seconds since 1970, counts as one that succeeded.

    Attributes:
        succeeded: whether the last one did.
        succeeded_at: when the last one that did ended, in seconds since 1970.
    """

    def __init__(self, at: float) -> None:
        self.succeeded = True
        self.succeeded_at = at


class Change(NamedTuple):
    """What reading the settings again changes.

    Attributes:
        settings: those from then on.
        taken: full names of the settings that are taken over.
        restart: of those that keep their value until a restart.
    """

    settings: Settings
    taken: tuple[str, ...]
    restart: tuple[str, ...]


def change(running: Settings, wanted: Settings, sections: Sequence[str]) -> Change:
    """What a process that runs with `running` and reads `sections` makes of `wanted`."""
    taken: list[str] = []
    restart: list[str] = []
    after = running
    for section in sections:
        old, new = getattr(running, section), getattr(wanted, section)
        values: dict[str, object] = {}
        for name in SECTIONS[section].__struct_fields__:
            before, now = getattr(old, name), getattr(new, name)
            if before == now:
                continue
            key = f"{section}.{name}"
            row = RELOADED.get(key)
            if row is not None and row.fits(before, now):
                taken.append(key)
                values[name] = now
            else:
                restart.append(key)
        if values:
            after = msgspec.structs.replace(after, **{section: msgspec.structs.replace(old, **values)})
    return Change(after, tuple(taken), tuple(restart))
