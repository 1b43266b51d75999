"""Traefik's static configuration from our settings, and both configurations as text. Pure.

Names are Traefik's own, checked against Traefik 3.7; what is None is not written, so that Traefik's default holds.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
import yaml

from trunkline.errors import SettingsError
from trunkline.settings.balancer import TraefikSettings
from trunkline.settings.quantities import go_duration
from trunkline.settings.reading.check import needs_secure
from trunkline.settings.sections import Settings
from trunkline.traefik.render.dynamic import FAIL_OPEN, PING, WEB, WEBSECURE, balancer_url, file_dynamic
from trunkline.traefik.render.dynamic_model import Dynamic

RESOLVER = "trunkline"
DYNAMIC_PATH = "/traefik/dynamic"
_LOOPBACK = ["127.0.0.1/32", "::1/128"]

_Tree = dict[str, object]


def static_text(settings: Settings, dynamic_file: Path, *comment: str) -> str:
    """The static configuration as YAML below a comment; raises SettingsError for settings that exclude each other.

    `dynamic_file` is where `dynamic.file_dynamic` is written, if it holds anything.
    """
    _check(settings)
    traefik = settings.traefik
    http = {
        "endpoint": balancer_url(settings) + DYNAMIC_PATH,
        "pollInterval": go_duration(traefik.poll_interval_ms),
        "pollTimeout": "2s",
    }
    has_file = file_dynamic(settings) != Dynamic()
    # The stand-in for the balancer is the internal ping service, which exists only with a ping section.
    ping = PING if traefik.ping_port else FAIL_OPEN if traefik.steer else None
    tree = _present(
        entryPoints=_entry_points(traefik),
        providers=_present(
            # The balancer publishes only what changed, so there is nothing to wait for.
            providersThrottleDuration="0s" if traefik.steer else None,
            file={"filename": str(dynamic_file), "watch": True} if has_file else None,
            http=http if traefik.steer else None,
        ),
        **{"global": {"checkNewVersion": False, "sendAnonymousUsage": False}},
        log={"level": traefik.log_level},
        certificatesResolvers={RESOLVER: {"acme": _acme(traefik)}} if traefik.acme_email else None,
        api={"dashboard": True} if traefik.dashboard_host else None,
        accessLog=_access_log(traefik) if traefik.access_log else None,
        metrics={"prometheus": {"entryPoint": "metrics"}} if traefik.metrics_port else None,
        ping={"entryPoint": ping} if ping else None,
    )
    return _yaml(tree, comment)


def dynamic_text(configuration: Dynamic, *comment: str) -> str:
    """A dynamic configuration as YAML, with `comment` lines above it."""
    return _yaml(msgspec.to_builtins(configuration), comment)


def _yaml(tree: object, comment: tuple[str, ...]) -> str:
    body = yaml.safe_dump(tree, sort_keys=False, width=110, allow_unicode=True)
    return "".join(f"# {line}\n" for line in comment) + body


def _present(**options: object) -> _Tree:
    return {name: value for name, value in options.items() if value is not None}


def _entry_points(traefik: TraefikSettings) -> _Tree:
    redirect = {"entryPoint": {"to": WEBSECURE, "scheme": "https"}} if traefik.https_port and traefik.redirect else None
    found: _Tree = {WEB: _for_clients(traefik, traefik.http_port, redirections=redirect)}
    if traefik.https_port:
        tls = {"certResolver": RESOLVER} if traefik.acme_email else {}
        found[WEBSECURE] = _for_clients(traefik, traefik.https_port, tls=tls)
    if traefik.steer:
        # Traefik requests picks from itself here, so the forwarding headers are its own.
        found[FAIL_OPEN] = {**_on_loopback(traefik.fail_open_port), "forwardedHeaders": {"trustedIPs": _LOOPBACK}}
    if traefik.metrics_port:
        found["metrics"] = {"address": _address(traefik.metrics_host, traefik.metrics_port), "http": _http()}
    if traefik.ping_port:
        found[PING] = _on_loopback(traefik.ping_port)
    return found


def _for_clients(traefik: TraefikSettings, port: int, **http: object) -> _Tree:
    return _present(
        address=_address(traefik.host, port),
        http=_http(**http),
        transport={"lifeCycle": {"graceTimeOut": go_duration(traefik.grace_timeout_ms)}},
        forwardedHeaders={"trustedIPs": list(traefik.trusted_proxies)} if traefik.trusted_proxies else None,
    )


def _on_loopback(port: int) -> _Tree:
    return {"address": _address("127.0.0.1", port), "http": _http()}


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _http(**options: object) -> _Tree:
    # A client's X_Forwarded_For would look like X-Forwarded-For to servers that take names from either spelling.
    return _present(**options, aliasHeadersStrategy="delete")


def _acme(traefik: TraefikSettings) -> _Tree:
    return _present(
        email=traefik.acme_email,
        storage=traefik.acme_storage,
        httpChallenge={"entryPoint": WEB},
        caServer=traefik.acme_ca_server or None,
    )


def _access_log(traefik: TraefikSettings) -> _Tree:
    return _present(
        format="json",
        filePath=None if traefik.access_log == "-" else traefik.access_log,
        # Browsers can send a token to a WebSocket only in the query.
        fields={"queryParameters": {"defaultMode": "drop"}},
    )


def _check(settings: Settings) -> None:
    traefik = settings.traefik
    if traefik.acme_email and not traefik.https_port:
        raise SettingsError("traefik.https_port", value="0", allowed="traefik.acme_email is set; set a port, e.g. 443")
    names = (traefik.domain, *(route.host for route in settings.balancer.routes))
    if traefik.acme_email and not any(name and not name.startswith("*") for name in names):
        raise SettingsError(
            "traefik.domain",
            value=traefik.domain,
            allowed="ACME needs the host name that a certificate is for, in full",
        )
    if traefik.same_site == "none" and traefik.sticky_cookie and not traefik.https_port:
        raise SettingsError(
            "traefik.same_site", value="none", allowed="browsers take it over TLS alone: set https_port"
        )
    if needs_secure(traefik.sticky_cookie) and not traefik.https_port:
        raise SettingsError(
            "traefik.sticky_cookie",
            value=traefik.sticky_cookie,
            allowed="browsers take cookies of this name over TLS alone: set https_port",
        )
    ports = {
        "traefik.http_port": traefik.http_port,
        "traefik.https_port": traefik.https_port,
        "traefik.fail_open_port": traefik.fail_open_port if traefik.steer else 0,
        "traefik.metrics_port": traefik.metrics_port,
        "traefik.ping_port": traefik.ping_port,
    }
    for key in ("traefik.http_port", *(("traefik.fail_open_port",) if traefik.steer else ())):
        if not ports[key]:
            raise SettingsError(key, value="0", allowed="Traefik needs a port that clients, or itself, can know")
    seen: dict[int, str] = {}
    for key, port in ports.items():
        if port and port in seen:
            raise SettingsError(key, value=str(port), allowed=f"{seen[port]} has the same port")
        seen[port] = key
