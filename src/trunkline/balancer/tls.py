"""TLS of the edge: the listener's certificate, the one that backends are shown, and what backends must show.

Rules: TLS 1.2 at least, HTTP/1.1 by ALPN. Certificates are loaded again when their files change: a new one holds for
handshakes from then on, and a broken one is logged once and the old one stays. Backends are verified unless the
settings switch that off, which is logged.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import structlog

from trunkline.errors import SettingsError
from trunkline.settings.balancer import BalancerSettings

log = structlog.get_logger("trunkline.balancer")

Signature = tuple[tuple[int, int, int], ...]


class CertificateFiles:
    """A certificate chain and its key in PEM files, the key perhaps in the same one."""

    def __init__(self, cert_file: Path, key_file: Path | None) -> None:
        self.cert_file = cert_file
        self.key_file = key_file or cert_file
        # Before the files are read: a change in between is then seen at the next look.
        self._seen = self._signature()

    def load(self, context: ssl.SSLContext) -> None:
        """Put them into a context; raises OSError or ValueError for files that hold nothing usable."""
        context.load_cert_chain(self.cert_file, self.key_file, password=_no_password)

    def checked(self, context: ssl.SSLContext, setting: str) -> None:
        """The same at the start; raises SettingsError."""
        try:
            self.load(context)
        except (OSError, ValueError) as error:
            raise SettingsError(
                setting,
                value=str(self.cert_file),
                allowed=f"a PEM file with a certificate chain whose key is in {self.key_file} ({_why(error)})",
            ) from None

    def changed(self) -> bool:
        """Whether they have changed since the last look."""
        seen = self._signature()
        if seen == self._seen or seen is None:
            return False
        self._seen = seen
        return True

    def log_loaded(self, why_not: Exception | None) -> None:
        """Say what became of a change."""
        if why_not is None:
            log.info("tls_certificate_loaded", file=str(self.cert_file))
        else:
            log.warning("tls_certificate_kept", file=str(self.cert_file), reason=_why(why_not))

    def _signature(self) -> Signature | None:
        try:
            stats = [os.stat(path) for path in (self.cert_file, self.key_file)]
        except OSError:
            # Being replaced, or gone: what is loaded stays.
            return None
        return tuple((stat.st_mtime_ns, stat.st_size, stat.st_ino) for stat in stats)


class ListenerTls:
    """The listener's TLS; raises SettingsError for files that hold no usable certificate and key.

    Args:
        key_file: PEM file of the key, None when it stands in the same file.

    Attributes:
        context: for the listener; it hands each new handshake the newest certificate.
    """

    def __init__(self, cert_file: Path, key_file: Path | None) -> None:
        self._files = CertificateFiles(cert_file, key_file)
        self.context = _listener_context()
        self._files.checked(self.context, "balancer.tls_cert_file")
        self._current = self.context
        self.context.sni_callback = self._newest

    def prepare(self, cert_file: Path, key_file: Path | None) -> Callable[[], None]:
        """Load the files of reloaded settings, and return what has them count for handshakes from then on.

        Raises SettingsError for files that hold no usable certificate and key.
        """
        files, fresh = CertificateFiles(cert_file, key_file), _listener_context()
        files.checked(fresh, "balancer.tls_cert_file")

        def take_over() -> None:
            self._files, self._current = files, fresh

        return take_over

    def look(self) -> None:
        """Load the files again when they have changed."""
        if not self._files.changed():
            return
        fresh = _listener_context()
        try:
            self._files.load(fresh)
        except (OSError, ValueError) as error:
            self._files.log_loaded(error)
        else:
            self._current = fresh
            self._files.log_loaded(None)

    def _newest(self, session: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        # Called by OpenSSL for every handshake, also for one that names no server.
        session.context = self._current


def _listener_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context


class BackendContext(ssl.SSLContext):
    """A context for connections to backends, to which it shows a certificate where there is one.

    The files are looked at before each handshake, next to which that costs nothing.

    Attributes:
        successor: the one of reloaded settings, which has the handshakes from then on. A context cannot unlearn an
            authority, and those who connect keep the one that they were given.
    """

    shown: CertificateFiles | None = None
    successor: BackendContext | None = None

    def wrap_bio(self, *arguments: Any, **options: Any) -> ssl.SSLObject:
        """Begin a handshake."""
        if self.successor is not None:
            return self.successor.wrap_bio(*arguments, **options)
        if self.shown is not None and self.shown.changed():
            try:
                # Apart first: half of a new pair would spoil the one that is loaded.
                self.shown.load(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
                self.shown.load(self)
            except (OSError, ValueError) as error:
                self.shown.log_loaded(error)
            else:
                self.shown.log_loaded(None)
        return super().wrap_bio(*arguments, **options)


def backend_context(settings: BalancerSettings) -> BackendContext:
    """The context for connections to backends; raises SettingsError for files that cannot be used."""
    context = BackendContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        if settings.tls_ca_file is not None:
            context.load_verify_locations(settings.tls_ca_file)
        else:
            context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    except (OSError, ValueError) as error:
        raise SettingsError(
            "balancer.tls_ca_file", value=str(settings.tls_ca_file), allowed=f"a PEM file ({_why(error)})"
        ) from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    if not settings.tls_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if settings.tls_client_cert_file is not None:
        context.shown = CertificateFiles(settings.tls_client_cert_file, settings.tls_client_key_file)
        context.shown.checked(context, "balancer.tls_client_cert_file")
    return context


def _no_password() -> str:
    # Without this OpenSSL would prompt on the terminal.
    raise ValueError("the key is encrypted; give one without a password")


def _why(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return error.reason or "not PEM"
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
