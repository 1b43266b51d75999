"""How the API server is reached: what a kubeconfig says, or what a pod has.

source                                                     when
---------------------------------------------------------  -----------------------------------------------------
the file of `kubernetes.kubeconfig`                        it is set
the files of KUBECONFIG                                    the variable is set
`~/.kube/config`                                           it is there
the service account of the pod                             KUBERNETES_SERVICE_HOST is set and the token is there

This is kubectl's order. A job of a CI that runs in one cluster and deploys to another has the last two.
"""

from __future__ import annotations

import os
import ssl
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

from trunkline.errors import StartError
from trunkline.kubernetes.credentials import Credentials, FileToken

SERVICE_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where a pod finds its token, the certificate of its API server, and its namespace."""


class Pem(msgspec.Struct, frozen=True):
    """A certificate or key, in a file or by itself; empty for none."""

    file: Path | None = None
    data: bytes = b""

    def __bool__(self) -> bool:
        return self.file is not None or bool(self.data)

    def read(self) -> bytes:
        """Its bytes; raises OSError."""
        return self.file.read_bytes() if self.file is not None else self.data

    def __str__(self) -> str:
        return str(self.file) if self.file is not None else "the data in the kubeconfig"

    def __repr__(self) -> str:
        return f"Pem({self})"


class Access(msgspec.Struct, frozen=True):
    """One API server, and as whom it is asked.

    Attributes:
        server: its URL, without a slash at the end.
        credentials: hands out tokens.
        namespace: of what is named without one.
        ca: certificates to trust; none: those of the system.
        verify: whether its certificate has to be valid.
        server_name: name that its certificate has, empty for the URL's host.
        certificate: certificate chain to show it, none for none.
        key: the key of `certificate`.
    """

    server: str
    credentials: Credentials
    namespace: str = "default"
    ca: Pem = Pem()
    verify: bool = True
    server_name: str = ""
    certificate: Pem = Pem()
    key: Pem = Pem()

    def tls(self) -> ssl.SSLContext | None:
        """The context of a connection, None for plain HTTP; raises OSError or ValueError that names a bad file."""
        if not self.server.startswith("https://"):
            return None
        context = self._trusting()
        if not self.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if self.certificate:
            # ssl reads certificates from files alone.
            with tempfile.TemporaryDirectory(prefix="trunkline-") as folder:
                both = Path(folder) / "both.pem"
                descriptor = os.open(both, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
                with os.fdopen(descriptor, "wb") as file:
                    file.write(self.certificate.read() + b"\n" + self.key.read())
                try:
                    # Without a password OpenSSL would ask for that of an encrypted key at the terminal.
                    context.load_cert_chain(both, password="")
                except ssl.SSLError as error:
                    why = f"{self.certificate} and {self.key} are no certificate and its unencrypted key"
                    raise ValueError(f"{why}: {error.reason or error}") from None
        return context

    def _trusting(self) -> ssl.SSLContext:
        if not self.ca:
            return ssl.create_default_context()
        # Comments may be in any language; without any content the certificates of the system would be taken.
        authorities = self.ca.read().decode("ascii", errors="ignore").strip()
        try:
            return ssl.create_default_context(cadata=authorities or "empty")
        except ssl.SSLError:
            raise ValueError(f"{self.ca} holds no certificates in PEM") from None


def of_pod(environ: Mapping[str, str], folder: Path = SERVICE_ACCOUNT) -> Access | None:
    """The API server of the cluster in which this process runs, None outside of one."""
    host, port = environ.get("KUBERNETES_SERVICE_HOST", ""), environ.get("KUBERNETES_SERVICE_PORT", "443")
    token = folder / "token"
    if not host or not token.is_file():
        return None
    try:
        namespace = (folder / "namespace").read_text().strip()
    except OSError:
        namespace = ""
    return Access(
        server=f"https://{f'[{host}]' if ':' in host else host}:{port}",
        credentials=FileToken(token),
        namespace=namespace or "default",
        ca=Pem(folder / "ca.crt"),
    )


def no_access() -> StartError:
    """No source names an API server."""
    return StartError(
        "no Kubernetes API server is known",
        "Set kubernetes.kubeconfig or KUBECONFIG, or run it in a pod whose service account token is mounted "
        "(automountServiceAccountToken).",
    )
