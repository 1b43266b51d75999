"""Base images without a registry: the machine's own Python as a stock Python image has it, and one to build with.

Rules:

- `python:local` has this interpreter under /usr/local, the C library that it uses and busybox as the shell: what the
  default base of the Dockerfile also has, at the same places.
- `builder:local` adds pip and the wheels that the product needs, fetched by this very interpreter, for what another one
  takes may differ; pip looks nowhere else.
- Both are kept beside pytest's cache, by what they are made from, so that a second run of the tests makes nothing.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.support import ROOT
from tests.support.docker.daemon import DockerDaemon
from tests.support.docker.namespace import CannotRun
from tests.support.patience import patient

PYTHON: Final = "python:local"
BUILDER: Final = "builder:local"

CACHE: Final = ROOT / ".pytest_cache" / "docker"

_LEFT_OUT: Final = ("test", "idlelib", "tkinter", "turtledemo", "ensurepip", "lib2to3", "site-packages", "__pycache__")
_TAKEN_FOR_GRANTED: Final = (
    "libc.so.6", "libm.so.6", "libdl.so.2", "libpthread.so.0", "librt.so.1", "libutil.so.1", "libresolv.so.2",
    "libnss_files.so.2", "libnss_dns.so.2", "libstdc++.so.6", "libgcc_s.so.1", "libz.so.1",
)  # fmt: skip


@contextlib.contextmanager
def cached(name: str, *made_from: str) -> Iterator[tuple[Path, bool]]:
    """A file or folder in the cache, and whether it is there already; other processes wait until it is.

    Args:
        name: how its name begins; what else begins so is removed.
        made_from: what it depends on.
    """
    CACHE.mkdir(parents=True, exist_ok=True)
    key = hashlib.sha256("\0".join(made_from).encode()).hexdigest()[:16]
    path = CACHE / f"{name}-{key}"
    with (CACHE / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if path.exists():
            yield path, True
            return
        for other in CACHE.glob(f"{name}-*"):
            shutil.rmtree(other) if other.is_dir() else other.unlink()
        part = CACHE / f"{name}.part"
        shutil.rmtree(part, ignore_errors=True)
        part.unlink(missing_ok=True)
        yield part, False
        part.replace(path)


def add_bases(daemon: DockerDaemon) -> None:
    """Give a daemon both images; raises CannotRun."""
    with cached("python", sys.version, Path(__file__).read_text()) as (tar, there):
        if not there:
            _write_base(tar)
    daemon.docker(
        "import",
        *("--change", "ENV PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"),
        *("--change", 'CMD ["python3"]'),
        _at(CACHE, "python"),
        PYTHON,
    )
    daemon.try_container(PYTHON)
    with cached("wheels", sys.version, *_requirements()) as (wheels, there):
        if not there:
            _fetch(wheels)
    _import_builder(daemon)


def _at(folder: Path, name: str) -> Path:
    (found,) = folder.glob(f"{name}-*")
    return found


def _requirements() -> list[str]:
    """What the Dockerfile installs: the project's dependencies, its extras by their argument, and the build's tools."""
    arguments = dict(re.findall(r'^ARG (\w+)="?([^"\n]*)"?$', (ROOT / "Dockerfile").read_text(), re.MULTILINE))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    optional = project["project"]["optional-dependencies"]
    needed = [*project["project"]["dependencies"], *project["build-system"]["requires"]]
    return [
        *needed,
        arguments["CYCLONEDX"],
        *(each for extra in arguments["EXTRAS"].split(",") for each in optional[extra]),
    ]


def _fetch(wheels: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--only-binary=:all:", "--dest", str(wheels)]
    done = subprocess.run(
        [*command, *_requirements()], text=True, capture_output=True, timeout=patient(300), check=False
    )
    if done.returncode:
        shutil.rmtree(wheels, ignore_errors=True)
        raise CannotRun(f"the wheels for the image cannot be fetched: {done.stderr.strip()[-500:]}")


def _write_base(path: Path) -> None:
    """The interpreter and what it needs, as an image's file tree."""
    library = Path(sysconfig.get_path("stdlib"))
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    program = Path(os.path.realpath(sys.executable))
    busybox = shutil.which("busybox")
    if busybox is None:
        raise CannotRun("busybox is not installed (Debian: busybox-static)")

    def kept(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
        name = Path(entry.name)
        if name.name in _LEFT_OUT or name.suffix == ".a" or name.name.startswith("config-"):
            return None
        entry.uid = entry.gid = 0
        entry.uname = entry.gname = "root"
        return entry

    with tarfile.open(path, "w") as tar:
        for folder in ("tmp", "var/tmp"):
            _folder(tar, folder, 0o1777)
        for folder in ("etc", "root", "proc", "sys", "dev", "run", f"usr/local/lib/{version}/site-packages"):
            _folder(tar, folder, 0o755)
        _text(tar, "etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n")
        _text(tar, "etc/group", "root:x:0:\nnogroup:x:65534:\n")
        _text(tar, "etc/nsswitch.conf", "hosts: files dns\n")
        for each in ("/etc/ssl/certs/ca-certificates.crt", "/etc/services", "/etc/protocols", "/etc/os-release"):
            if Path(each).exists():
                tar.add(os.path.realpath(each), each.lstrip("/"))
        tar.add(busybox, "bin/busybox")
        for applet in subprocess.run([busybox, "--list"], text=True, capture_output=True, check=True).stdout.split():
            if applet != "busybox":
                _link(tar, f"bin/{applet}", "busybox")
        tar.add(library, f"usr/local/lib/{version}", filter=kept)
        tar.add(program, f"usr/local/bin/{version}")
        _link(tar, "usr/local/bin/python3", version)
        _link(tar, "usr/local/bin/python", version)
        needed = {program, *library.glob("lib-dynload/*.so")}
        libraries = {found for each in needed for found in _libraries(each)} | set(_of_every_system())
        for place, found in sorted({_place_of(found): found for found in libraries}.items()):
            tar.add(os.path.realpath(found), str(place).lstrip("/"))


def _libraries(program: Path) -> Iterator[Path]:
    """The shared libraries that a program or library is linked with, its loader included."""
    done = subprocess.run(["ldd", str(program)], text=True, capture_output=True, check=False)
    for line in done.stdout.splitlines():
        for word in line.split():
            if word.startswith("/"):
                yield Path(word)


def _of_every_system() -> Iterator[Path]:
    """Libraries that wheels may take for granted: all of the C library's, and those of C and C++ compilers."""
    for folder in (f"/lib/{platform.machine()}-linux-gnu", f"/usr/lib/{platform.machine()}-linux-gnu", "/lib64"):
        for name in _TAKEN_FOR_GRANTED:
            found = Path(folder) / name
            if found.exists():
                yield found


def _place_of(library: Path) -> Path:
    """Where the loader finds a library without a cache of its own; the loader itself has one fixed place."""
    if library.name.startswith("ld-linux"):
        return library
    return Path(f"/lib/{platform.machine()}-linux-gnu") / library.name


def _import_builder(daemon: DockerDaemon) -> None:
    import pip

    wheels = _at(CACHE, "wheels")
    context = daemon.root / "builder"
    site = context / "site-packages"
    shutil.copytree(Path(pip.__path__[0]), site / "pip", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(wheels, context / "wheels")
    (context / "pip.conf").write_text(
        "[global]\nno-index = true\nfind-links = /wheels\ndisable-pip-version-check = true\n"
    )
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    (context / "Dockerfile").write_text(
        f"FROM {PYTHON}\n"
        f"COPY site-packages /usr/local/lib/{version}/site-packages\n"
        "COPY wheels /wheels\n"
        "COPY pip.conf /etc/pip.conf\n"
    )
    daemon.docker("build", "--quiet", "--tag", BUILDER, context, within_s=120)
    shutil.rmtree(context)


def _folder(tar: tarfile.TarFile, name: str, mode: int) -> None:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode = tarfile.DIRTYPE, mode
    tar.addfile(entry)


def _text(tar: tarfile.TarFile, name: str, text: str) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(text.encode()), 0o644
    tar.addfile(entry, io.BytesIO(text.encode()))


def _link(tar: tarfile.TarFile, name: str, target: str) -> None:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname, entry.mode = tarfile.SYMTYPE, target, 0o777
    tar.addfile(entry)
