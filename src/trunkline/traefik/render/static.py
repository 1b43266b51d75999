"""Traefik's static configuration from our settings, and both configurations as text. Pure."""

from __future__ import annotations

from pathlib import Path

import msgspec
import yaml

from trunkline.errors import SettingsError
from trunkline.settings.balancer import TraefikSettings
from trunkline.settings.quantities import go_duration
from trunkline.settings.sections import Settings
from trunkline.traefik.render import dynamic as render
from trunkline.traefik.render import dynamic_model
from trunkline.traefik.render import static_model as model
from trunkline.traefik.render.dynamic import FAIL_OPEN, WEB, WEBSECURE

RESOLVER = "trunkline"
DYNAMIC_PATH = "/traefik/dynamic"
_LOOPBACK = ("127.0.0.1/32", "::1/128")


def static(settings: Settings, dynamic_file: Path) -> model.Static:
    """The static configuration.

    Args:
        settings: all settings.
        dynamic_file: where `render.file_dynamic` is written, if it holds anything.

    Raises:
        SettingsError: settings that exclude each other.
    """
    traefik = settings.traefik
    _check(settings)
    has_file = render.file_dynamic(settings) != dynamic_model.Dynamic()
    return model.Static(
        global_=model.Global(check_new_version=False, send_anonymous_usage=False),
        entry_points=_entry_points(traefik),
        providers=model.Providers(
            # The balancer publishes only what changed, so there is nothing to wait for.
            providers_throttle_duration="0s" if traefik.steer else None,
            file=model.FileProvider(filename=str(dynamic_file), watch=True) if has_file else None,
            http=(
                model.HttpProvider(
                    endpoint=render.balancer_url(settings) + DYNAMIC_PATH,
                    poll_interval=go_duration(traefik.poll_interval_ms),
                    poll_timeout="2s",
                )
                if traefik.steer
                else None
            ),
        ),
        certificates_resolvers={RESOLVER: _resolver(traefik)} if traefik.acme_email else None,
        api=model.Api(dashboard=True) if traefik.dashboard_host else None,
        log=model.Log(level=traefik.log_level),
        access_log=_access_log(traefik),
        metrics=model.Metrics(prometheus=model.Prometheus(entry_point="metrics")) if traefik.metrics_port else None,
        # The stand-in for the balancer is the internal ping service, which exists only with a ping section.
        ping=model.Ping(entry_point="ping" if traefik.ping_port else FAIL_OPEN) if _needs_ping(traefik) else None,
    )


def to_yaml(configuration: model.Static | dynamic_model.Dynamic, *comment: str) -> str:
    """YAML text with `comment` lines above it."""
    body = yaml.safe_dump(msgspec.to_builtins(configuration), sort_keys=False, width=110, allow_unicode=True)
    return "".join(f"# {line}\n" for line in comment) + body


def _needs_ping(traefik: TraefikSettings) -> bool:
    return bool(traefik.ping_port) or traefik.steer


def _entry_points(traefik: TraefikSettings) -> dict[str, model.EntryPoint]:
    transport = model.Transport(life_cycle=model.LifeCycle(grace_time_out=go_duration(traefik.grace_timeout_ms)))
    forwarded = model.ForwardedHeaders(trusted_ips=traefik.trusted_proxies) if traefik.trusted_proxies else None
    redirections = None
    if traefik.https_port and traefik.redirect:
        redirections = model.Redirections(entry_point=model.RedirectTo(to=WEBSECURE, scheme="https"))
    found = {
        WEB: model.EntryPoint(
            address=_address(traefik.host, traefik.http_port),
            http=_http(redirections=redirections),
            transport=transport,
            forwarded_headers=forwarded,
        )
    }
    if traefik.https_port:
        found[WEBSECURE] = model.EntryPoint(
            address=_address(traefik.host, traefik.https_port),
            http=_http(tls=dynamic_model.Tls(cert_resolver=RESOLVER if traefik.acme_email else None)),
            transport=transport,
            forwarded_headers=forwarded,
        )
    if traefik.steer:
        # Traefik asks itself here, so the forwarding headers are its own.
        found[FAIL_OPEN] = model.EntryPoint(
            address=f"127.0.0.1:{traefik.fail_open_port}",
            http=_http(),
            forwarded_headers=model.ForwardedHeaders(trusted_ips=_LOOPBACK),
        )
    if traefik.metrics_port:
        found["metrics"] = model.EntryPoint(address=f"127.0.0.1:{traefik.metrics_port}", http=_http())
    if traefik.ping_port:
        found["ping"] = model.EntryPoint(address=f"127.0.0.1:{traefik.ping_port}", http=_http())
    return found


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _http(
    *, redirections: model.Redirections | None = None, tls: dynamic_model.Tls | None = None
) -> model.EntryPointHttp:
    # A client's X_Forwarded_For would look like X-Forwarded-For to servers that take names from either spelling.
    return model.EntryPointHttp(redirections=redirections, tls=tls, alias_headers_strategy="delete")


def _resolver(traefik: TraefikSettings) -> model.CertificatesResolver:
    return model.CertificatesResolver(
        acme=model.Acme(
            email=traefik.acme_email,
            storage=traefik.acme_storage,
            http_challenge=model.HttpChallenge(entry_point=WEB),
            ca_server=traefik.acme_ca_server or None,
        )
    )


def _access_log(traefik: TraefikSettings) -> model.AccessLog | None:
    if not traefik.access_log:
        return None
    return model.AccessLog(
        format="json",
        file_path=None if traefik.access_log == "-" else traefik.access_log,
        # Browsers can send a token to a WebSocket only in the query.
        fields=model.AccessLogFields(query_parameters=model.FieldMode(default_mode="drop")),
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
