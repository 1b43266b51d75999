"""Writes a kubeconfig for a server of the tests."""

from __future__ import annotations

from pathlib import Path

import yaml


def write_kubeconfig(
    folder: Path, server: str, *, token: str = "", authority: str = "", namespace: str = "live"
) -> Path:
    """Its current context is `live`; there is one more, `test`, with a namespace of that name."""
    cluster = {"server": server} | ({"certificate-authority": authority} if authority else {})
    contexts = {"live": namespace, "test": "test"}
    found = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": cluster}],
        "users": [{"name": "u", "user": {"token": token} if token else {}}],
        "contexts": [
            {"name": name, "context": {"cluster": "c", "user": "u", "namespace": place}}
            for name, place in contexts.items()
        ],
        "current-context": "live",
    }
    path = folder / "kubeconfig"
    path.write_text(yaml.safe_dump(found))
    return path
