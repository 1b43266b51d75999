"""Prepares the volumes of the stack at each `docker compose up`: secrets that are missing, and who owns what.

Rules:

- A secret comes from the operator's file of its name in /given, else it is kept as it is, else one is made. Where all
  must be given (SECRETS_MUST_BE_GIVEN=yes), a missing one stops the start, and every missing one is named.
- Each program finds its secrets in a directory that only its user can look into; nothing else of the volume is readable
  to it. Those of Trunkline are root's too, for the deploy tool, which is root without capabilities.
- A secret is never printed. A file of another name is: it may be a secret whose name is misspelt.

It runs as root with the capabilities CHOWN and DAC_OVERRIDE, on the Python of Trunkline's image and nothing beside it.
"""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

TRUNKLINE, POSTGRES, NOBODY, GRAFANA, ELASTIC = 10_001, 999, 65_534, 472, 1_000
"""Users of the images."""


class Entry(NamedTuple):
    """A secret.

    Attributes:
        made: one is made where none is given; otherwise there is none, and its program does without.
        text: what is made, where that is no secret.
    """

    made: bool = True
    text: str = ""


PROGRAMS: Mapping[str, tuple[int, Mapping[str, Entry]]] = {
    "trunkline": (TRUNKLINE, {"admin_token": Entry()}),
    "postgres": (POSTGRES, {"postgres_password": Entry(), "postgres_exporter_password": Entry()}),
    "postgres-exporter": (NOBODY, {"postgres_exporter_password": Entry()}),
    "alertmanager": (
        NOBODY,
        {name: Entry(made=False) for name in ("webhook_url", "webhook_token", "watchdog_url", "smtp_password")},
    ),
    "grafana": (
        GRAFANA,
        {
            "grafana_admin_user": Entry(text="admin"),
            "grafana_admin_password": Entry(),
            "smtp_password": Entry(made=False),
        },
    ),
    "elastic": (
        ELASTIC,
        {name: Entry() for name in ("elastic_password", "kibana_password", "filebeat_password")},
    ),
}
"""Directory of each program in the volume, its user, and its secrets by name."""


class Unusable(Exception):
    """Why the stack cannot start."""


def prepare(given: Path, volumes: Path, *, must_be_given: bool) -> list[str]:
    """Bring the volumes into the state that the services expect.

    Args:
        given: the operator's files.
        volumes: directory below which the volumes are mounted.
        must_be_given: whether none may be made.

    Returns:
        What was made or taken over, for the log.

    Raises:
        Unusable: a secret is missing, empty or cannot be read.
    """
    kept = volumes / "secrets"
    made: dict[str, bytes] = {}
    missing: list[str] = []
    known = {name for _, entries in PROGRAMS.values() for name in entries}
    said = [f"no program has a secret named {name}" for name in sorted(names(given) - known)]
    for program, (_, entries) in PROGRAMS.items():
        for name, entry in entries.items():
            found = read(given / name)
            if found is not None and not found.strip():
                raise Unusable(f"the secret {name} is empty; write it into the file, or remove the file")
            if found is None and not must_be_given:
                found = read(kept / program / name)
            if found is not None:
                made.setdefault(name, found.strip(b"\r\n"))
            elif name in made or not entry.made:
                continue
            elif must_be_given:
                missing.append(name)
            else:
                made[name] = (entry.text or secrets.token_urlsafe(32)).encode()
                said.append(f"made the secret {name}")
    if missing:
        raise Unusable(
            f"no file for {', '.join(dict.fromkeys(missing))}; write each into a file of its name in TRUNKLINE_SECRETS "
            "(by default deploy/compose/secrets), or unset TRUNKLINE_SECRETS_MUST_BE_GIVEN to have them made"
        )
    kept.chmod(0o755)
    for program, (user, entries) in PROGRAMS.items():
        place = kept / program
        place.mkdir(exist_ok=True)
        for name in entries:
            if name in made:
                # Elasticsearch takes no file that a group can read.
                replace(place / name, made[name], user, 0o440 if user == TRUNKLINE else 0o400)
            else:
                (place / name).unlink(missing_ok=True)
        os.chown(place, 0, 0)  # only its owner may change a mode
        place.chmod(0o550 if user == TRUNKLINE else 0o500)
        os.chown(place, user, 0)
    for volume in ("logs", "balancer"):
        os.chown(volumes / volume, TRUNKLINE, TRUNKLINE)
    return said


def names(given: Path) -> set[str]:
    """The operator's files but hidden ones."""
    try:
        return {path.name for path in given.iterdir() if not path.name.startswith(".")}
    except FileNotFoundError:
        return set()


def read(path: Path) -> bytes | None:
    """What a file holds, None when it is not there."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        if path.is_symlink():
            # It would be replaced by one made here, in silence.
            raise Unusable(f"the secret {path.name} is a link out of its directory; put the file itself there") from None
        return None
    except OSError as error:
        raise Unusable(f"the secret {path.name} cannot be read: {error.strerror}") from None


def replace(path: Path, text: bytes, user: int, mode: int) -> None:
    """Put a file there in one step, for a user and the group of root."""
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(text)
        os.fsync(file.fileno())
        os.fchown(file.fileno(), user, 0)
    new.replace(path)


def main() -> int:
    """Prepare what Compose mounts."""
    must = os.environ.get("SECRETS_MUST_BE_GIVEN", "no")
    if must not in ("yes", "no"):
        print(f"prepare: TRUNKLINE_SECRETS_MUST_BE_GIVEN is {must!r}; allowed: yes, no", file=sys.stderr)
        return 2
    try:
        for line in prepare(Path("/given"), Path("/volumes"), must_be_given=must == "yes"):
            print(f"prepare: {line}")
    except Unusable as error:
        print(f"prepare: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
