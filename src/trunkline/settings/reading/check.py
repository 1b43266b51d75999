"""Checks beyond one field's type: texts with a grammar, values that exclude each other. Pure.

Rules:

- `each` looks at one setting at a time, `together` at several. The second makes sense only when every value is usable
  by itself: with a default in the place of a bad value it would find conflicts that nobody made.
- What depends on this machine is checked where the setting is used.
"""

from __future__ import annotations

import ipaddress
import operator
import re
from collections.abc import Iterator
from urllib.parse import urlsplit

from trunkline.errors import SettingsError
from trunkline.settings.admin import SCOPES, SHORTEST_TOKEN, AdminSettings
from trunkline.settings.channels import Access
from trunkline.settings.reading.spelling import nearest
from trunkline.settings.secret import mask_url
from trunkline.settings.sections import AuthSettings, Settings

_NETWORKS = (
    "server.advertise_network", "server.trusted_proxies", "server.metrics_networks", "limits.exempt",
    "balancer.proxy_protocol",
    "balancer.trusted_proxies", "balancer.metrics_networks", "balancer.exempt", "traefik.trusted_proxies",
    "traefik.networks",
)  # fmt: skip
_MIN_SECRET_BYTES = 32
_ACCESS = ("anyone", "authenticated", "nobody")
_CLAIM = re.compile(r"[A-Za-z0-9_.:/-]+=.+")


def each(settings: Settings) -> Iterator[SettingsError]:
    """What cannot be used of single settings."""
    for key in _NETWORKS:
        found = operator.attrgetter(key)(settings) or ()
        for text in (found,) if isinstance(found, str) else found:
            try:
                ipaddress.ip_network(text)
            except ValueError as error:
                allowed = f'allowed: addresses and networks such as "10.0.0.0/8" ({error})'
                yield SettingsError(key, value=text, allowed=allowed)
    for index, rule in enumerate(settings.channels.rules):
        yield from _access(f"channels.rules[{index}].subscribe", rule.subscribe)
        yield from _access(f"channels.rules[{index}].publish", rule.publish)
    app, token, auth = settings.server.app, settings.admin.token, settings.auth
    if app and not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*", app):
        yield SettingsError("server.app", value=app, allowed="allowed: module:attribute, e.g. shop.live:app")
    if token is not None and len(token.reveal()) < SHORTEST_TOKEN:
        yield SettingsError("admin.token", allowed=f"it needs at least {SHORTEST_TOKEN} characters")
    for index, entry in enumerate(settings.admin.tokens):
        if entry.token is not None and len(entry.token.reveal()) < SHORTEST_TOKEN:
            allowed = f"it needs at least {SHORTEST_TOKEN} characters"
            yield SettingsError(f"admin.tokens[{index}].token", allowed=allowed)
        if not entry.scopes:
            allowed = f"it names no scope; allowed: {', '.join(SCOPES)}"
            yield SettingsError(f"admin.tokens[{index}].scopes", value="[]", allowed=allowed)
    if auth.algorithms and auth.secret is not None and len(auth.secret.reveal().encode()) < _MIN_SECRET_BYTES:
        # RFC 7518 section 3.2: a key of the same size as the hash output or larger must be used.
        yield SettingsError("auth.secret", allowed=f"HS256 needs at least {_MIN_SECRET_BYTES} bytes")
    if auth.algorithms and auth.jwks_url is not None:
        parts = urlsplit(auth.jwks_url)
        local = parts.scheme == "http" and parts.hostname in ("localhost", "127.0.0.1", "::1")
        if not (parts.hostname and (parts.scheme == "https" or local)):
            allowed = "allowed: an https:// address (http:// only on this machine)"
            yield SettingsError("auth.jwks_url", value=mask_url(auth.jwks_url), allowed=allowed)


def together(settings: Settings) -> Iterator[SettingsError]:
    """Settings that exclude each other."""
    server, admin = settings.server, settings.admin
    yield from _admin_port("server.port", server.port, "admin.port", admin.port)
    if admin.token is not None and admin.token_file is not None:
        yield SettingsError("admin.token_file", value=str(admin.token_file), allowed="admin.token is set too; keep one")
    yield from _tokens(admin)
    yield from _auth(settings.auth)
    yield from _balancer(settings)


def _tokens(admin: AdminSettings) -> Iterator[SettingsError]:
    names = [entry.name for entry in admin.tokens]
    for index, entry in enumerate(admin.tokens):
        key = f"admin.tokens[{index}]"
        if (entry.file is None) == (entry.token is None):
            allowed = "it has a token and a file; keep one" if entry.token else "it has no token; set file, or token"
            yield SettingsError(key, value=entry.name, allowed=allowed)
        if entry.name in ("admin.token", "admin.token_file", *names[:index]):  # names in the log of those for all
            allowed = "another token has this name; the log could not tell them apart"
            yield SettingsError(f"{key}.name", value=entry.name, allowed=allowed)


def _admin_port(key: str, port: int, admin_key: str, admin_port: int | None) -> Iterator[SettingsError]:
    if admin_port and admin_port == port:
        allowed = f"it must differ from {key} (0 switches the admin port off)"
        yield SettingsError(admin_key, value=str(admin_port), allowed=allowed)
    if admin_port is None and port == 65_535:
        yield SettingsError(admin_key, allowed=f"{key} + 1 is no port; set {admin_key}, or 0 to switch it off")


def _balancer(settings: Settings) -> Iterator[SettingsError]:
    balancer, traefik = settings.balancer, settings.traefik
    if balancer.health == "websocket" and balancer.health_path == "/health":
        allowed = 'with balancer.health = "websocket" it must be a WebSocket endpoint, such as "/ws"'
        yield SettingsError("balancer.health_path", value=balancer.health_path, allowed=allowed)
    if balancer.rebalance_until > balancer.rebalance_above:
        allowed = f"it must not be above balancer.rebalance_above ({balancer.rebalance_above:g})"
        yield SettingsError("balancer.rebalance_until", value=f"{balancer.rebalance_until:g}", allowed=allowed)
    if balancer.eject_ms > balancer.eject_max_ms:
        allowed = f"it must not be above balancer.eject_max_ms ({balancer.eject_max_ms})"
        yield SettingsError("balancer.eject_ms", value=str(balancer.eject_ms), allowed=allowed)
    if balancer.tls_key_file is not None and balancer.tls_cert_file is None:
        yield SettingsError("balancer.tls_key_file", allowed="balancer.tls_cert_file is missing; set both")
    if balancer.tls_client_key_file is not None and balancer.tls_client_cert_file is None:
        yield SettingsError(
            "balancer.tls_client_key_file", allowed="balancer.tls_client_cert_file is missing; set both"
        )
    yield from _admin_port("balancer.port", balancer.port, "balancer.admin_port", balancer.admin_port)
    names = [group.name for group in balancer.groups]
    for index, name in enumerate(names):
        if name in names[:index]:
            allowed = "an earlier group has this name; give each group one entry"
            yield SettingsError(f"balancer.groups[{index}].name", value=name, allowed=allowed)
    if balancer.mode == "steer" and balancer.workers > 1:
        allowed = "a steering balancer carries no bytes; one process is enough"
        yield SettingsError("balancer.workers", value=str(balancer.workers), allowed=allowed)
    if balancer.sticky_same_site == "none" and balancer.sticky_cookie and not balancer.sticky_secure:
        allowed = "browsers refuse SameSite=None without Secure; set balancer.sticky_secure = true"
        yield SettingsError("balancer.sticky_same_site", value="none", allowed=allowed)
    if needs_secure(balancer.sticky_cookie) and not balancer.sticky_secure:
        allowed = "browsers drop cookies of this name without Secure; set balancer.sticky_secure = true"
        yield SettingsError("balancer.sticky_cookie", value=balancer.sticky_cookie, allowed=allowed)
    if (traefik.cert_file is None) != (traefik.key_file is None):
        yield SettingsError("traefik.cert_file", allowed="certificate and traefik.key_file belong together; set both")


def needs_secure(cookie: str) -> bool:
    """Whether browsers take a cookie of this name with the attribute Secure alone (RFC 6265bis section 4.1.3)."""
    return cookie.lower().startswith(("__host-", "__secure-"))


def _access(key: str, access: Access) -> Iterator[SettingsError]:
    for word in (access,) if isinstance(access, str) else access:
        if word not in _ACCESS and not _CLAIM.fullmatch(word):
            names = ", ".join(f'"{name}"' for name in _ACCESS)
            allowed = f'allowed: {names}, or claims such as "role=admin" ("role=*": any value)'
            yield SettingsError(key, value=word, allowed=allowed, nearest=nearest(word, _ACCESS))


def _auth(auth: AuthSettings) -> Iterator[SettingsError]:
    keyed = [key for key in ("secret", "secret_file", "public_key_file", "jwks_url") if getattr(auth, key) is not None]
    if not auth.algorithms:
        if keyed:
            allowed = f"auth.{keyed[0]} is set, so name the algorithms"
            yield SettingsError("auth.algorithms", value="[]", allowed=allowed)
        elif auth.required:
            yield SettingsError("auth.required", value="true", allowed="auth.algorithms must name at least one")
        return
    if auth.secret is not None and auth.secret_file is not None:
        yield SettingsError("auth.secret_file", value=str(auth.secret_file), allowed="auth.secret is set too; keep one")
    if auth.public_key_file is not None and auth.jwks_url is not None:
        shown = mask_url(auth.jwks_url)
        yield SettingsError("auth.jwks_url", value=shown, allowed="auth.public_key_file is set too; keep one")
    for name in auth.algorithms:
        shared = name == "HS256"
        needed = ("secret", "secret_file") if shared else ("public_key_file", "jwks_url")
        if not set(needed) & set(keyed):
            allowed = f"it needs auth.{needed[0]} or auth.{needed[1]}"
            yield SettingsError("auth.algorithms", value=name, allowed=allowed)
