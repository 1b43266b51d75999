"""The runtime of a deploy whose nodes somebody else starts and stops: CI, systemd, an orchestrator. Pure."""

from __future__ import annotations

from trunkline.deploy.runtimes.base import RuntimeNode, What


class NoRuntime:
    """See `base.Runtime`; it knows no nodes, and orders to it do nothing."""

    name = "none"

    @property
    def starts(self) -> bool:
        """No."""
        return False

    async def check(self, colour: str, what: What) -> str:
        """What is to be run is not this runtime's business, so it may not be named."""
        named = [
            f"--{name}" for name, value in (("app", what.app), ("image", what.image), ("python", what.python)) if value
        ]
        if not named:
            return ""
        return f"{', '.join(named)}: with --runtime none somebody else starts the nodes; leave it out"

    async def list(self, colour: str) -> tuple[RuntimeNode, ...]:
        """None."""
        return ()

    async def ensure(self, colour: str, count: int, what: What) -> None:
        """Nothing; the gates wait for the nodes."""

    async def remove(self, colour: str) -> None:
        """Nothing."""

    async def logs(self, node: str, lines: int = 20) -> tuple[str, ...]:
        """They are somewhere else."""
        return ()

    async def close(self) -> None:
        """Nothing."""
