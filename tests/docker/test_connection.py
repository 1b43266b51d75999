"""Which certificates a connection to a daemon is made with."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from tests.support.balancer.authority import Authority

pytest.importorskip("aiodocker", reason="Docker needs the package aiodocker")
from trunkline.docker.connection import context
from trunkline.docker.endpoint import TlsFiles


def test_an_encrypted_key_is_refused_without_a_question_at_the_terminal(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.sign(tmp_path / "both.pem", "client")
    hidden = serialization.load_pem_private_key(key, None).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"s3cret")
    )
    (tmp_path / "cert.pem").write_bytes(certificate)
    (tmp_path / "key.pem").write_bytes(hidden)
    with pytest.raises(ssl.SSLError, match=r"cert\.pem and .*key\.pem are no certificate and its key"):
        context(TlsFiles(authority.file, tmp_path / "cert.pem", tmp_path / "key.pem"))
