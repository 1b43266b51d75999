"""TLS of the edge: the listener's certificate, loaded again when its files change, and what backends must show.

Rules: TLS 1.2 at least, HTTP/1.1 by ALPN. A changed certificate holds for handshakes from then on; a broken one is
logged once and the old one stays. Backends are verified unless the settings switch that off, which is logged.
"""

from __future__ import annotations

import os
import ssl
from pathlib import Path

import structlog

from trunkline.errors import SettingsError
from trunkline.settings.balancer import BalancerSettings

log = structlog.get_logger("trunkline.balancer")

Signature = tuple[tuple[int, int, int], ...]


class ListenerTls:
    """The listener's TLS; raises SettingsError for files that hold no usable certificate and key.

    Args:
        key_file: PEM file of the key, None when it stands in the same file.

    Attributes:
        context: for the listener; it hands each new handshake the newest certificate.
    """

    def __init__(self, cert_file: Path, key_file: Path | None) -> None:
        self._cert_file = cert_file
        self._key_file = key_file or cert_file
        # Before the files are read: a change in between is then seen at the next look.
        self._seen = self._signature()
        try:
            self._current = self._load()
        except (OSError, ValueError) as error:
            raise SettingsError(
                "balancer.tls_cert_file",
                value=str(cert_file),
                allowed=f"a PEM file with a certificate chain whose key is in {self._key_file} ({_why(error)})",
            ) from None
        self.context = self._load()
        self.context.sni_callback = self._newest

    def look(self) -> None:
        """Load the files again when they have changed."""
        seen = self._signature()
        if seen == self._seen or seen is None:
            return
        self._seen = seen
        try:
            self._current = self._load()
        except (OSError, ValueError) as error:
            log.warning("tls_certificate_kept", file=str(self._cert_file), reason=_why(error))
        else:
            log.info("tls_certificate_loaded", file=str(self._cert_file))

    def _newest(self, session: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        # Called by OpenSSL for every handshake, also for one that names no server.
        session.context = self._current

    def _load(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        context.load_cert_chain(self._cert_file, self._key_file, password=_no_password)
        return context

    def _signature(self) -> Signature | None:
        try:
            stats = [os.stat(path) for path in (self._cert_file, self._key_file)]
        except OSError:
            # Being replaced, or gone: what is loaded stays.
            return None
        return tuple((stat.st_mtime_ns, stat.st_size, stat.st_ino) for stat in stats)


def backend_context(settings: BalancerSettings) -> ssl.SSLContext:
    """The context for connections to backends; raises SettingsError for a CA file that cannot be used."""
    try:
        context = ssl.create_default_context(cafile=settings.tls_ca_file)
    except (OSError, ValueError) as error:
        raise SettingsError(
            "balancer.tls_ca_file", value=str(settings.tls_ca_file), allowed=f"a PEM file ({_why(error)})"
        ) from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    if not settings.tls_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _no_password() -> str:
    # Without this OpenSSL would prompt on the terminal.
    raise ValueError("the key is encrypted; give one without a password")


def _why(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return error.reason or "not PEM"
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
