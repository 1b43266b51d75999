"""A registry with one image, for those who have its password; run it inside a daemon's network namespace.

It also has repositories named `slow…`, of which it never answers anything. Prints a line once it listens.
"""

from __future__ import annotations

import asyncio
import base64
import gzip
import hashlib
import io
import json
import platform
import sys
import tarfile
from typing import Final

from aiohttp import web

PORT: Final = 5000
REGISTRY: Final = f"127.0.0.1:{PORT}"
USER: Final = "reader"
PASSWORD: Final = "pass:word"
AUTH: Final = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()

_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _parts(config: dict[str, object]) -> dict[str, bytes]:
    """Manifest, configuration and layer of an image with one file, by digest; the manifest also as `1`."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("a-file"))
    packed = gzip.compress(layer.getvalue(), mtime=0)
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    described = json.dumps({
        "architecture": machine, "os": "linux", "config": config,
        "rootfs": {"type": "layers", "diff_ids": [_digest(layer.getvalue())]},
    }).encode()  # fmt: skip
    manifest = json.dumps({
        "schemaVersion": 2, "mediaType": _MANIFEST,
        "config": _blob(described, "application/vnd.docker.container.image.v1+json"),
        "layers": [_blob(packed, "application/vnd.docker.image.rootfs.diff.tar.gzip")],
    }).encode()  # fmt: skip
    return {_digest(each): each for each in (described, packed, manifest)} | {"1": manifest}


def _blob(data: bytes, kind: str) -> dict[str, object]:
    return {"mediaType": kind, "size": len(data), "digest": _digest(data)}


async def main() -> None:
    parts = _parts({"Cmd": ["serve"]})

    async def answer(request: web.Request) -> web.Response:
        if request.headers.get("Authorization") != f"Basic {AUTH}":
            return web.Response(status=401, headers={"WWW-Authenticate": 'Basic realm="tests"'})
        if "/slow" in request.path:
            await asyncio.Event().wait()
        wanted = request.path.rpartition("/")[2]
        if request.path == "/v2/":
            return web.json_response({})
        if wanted not in parts:
            return web.json_response({"errors": [{"code": "MANIFEST_UNKNOWN"}]}, status=404)
        kind = _MANIFEST if "/manifests/" in request.path else "application/octet-stream"
        headers = {"Docker-Content-Digest": _digest(parts[wanted])}
        return web.Response(body=parts[wanted], content_type=kind, headers=headers)

    app = web.Application()
    app.router.add_get("/v2/{path:.*}", answer)  # and HEAD
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", PORT).start()
    sys.stdout.write("listens\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
