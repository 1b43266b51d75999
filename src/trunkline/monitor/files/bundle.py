"""Every file that `trunkline monitor render` writes, and how a directory differs from them.

Rules:

- `files` is pure: the same settings are the same texts, and none of them holds a secret.
- A file is replaced in one step and only when its text changed, because Prometheus and Grafana may be reading it.
- Nothing is removed. A file in one of our directories that is no longer rendered is named as extra; `secrets` is not
  looked into.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple

from trunkline.errors import StartError
from trunkline.monitor.files import compose, kubernetes, logs
from trunkline.monitor.files.alertmanager import alertmanager_yaml
from trunkline.monitor.files.grafana import provisioning
from trunkline.monitor.files.postgres import queries_yaml
from trunkline.monitor.files.prometheus import prometheus_yaml, service_defaults
from trunkline.monitor.rules import load, render
from trunkline.process.whole_files import replace_file
from trunkline.settings.sections import Settings


class Difference(NamedTuple):
    """A file that is not as it would be rendered.

    Attributes:
        path: relative to the directory.
        kind: it is not there, its text is another, or nothing renders it.
    """

    path: str
    kind: Literal["missing", "changed", "extra"]


def files(settings: Settings, *, dashboards: bool = True) -> dict[str, str]:
    """Relative path and text of every file.

    Args:
        settings: of which [monitor] counts most.
        dashboards: whether Grafana's dashboards are among them, which need grafana-foundation-sdk.

    Raises:
        SettingsError: settings that cannot be meant.
        StartError: the SDK is not installed.
    """
    monitor = settings.monitor
    groups = load.groups(monitor)
    made = {
        "prometheus/prometheus.yml": prometheus_yaml(settings, tuple(group.name for group in groups)),
        "prometheus/service-defaults": service_defaults(settings),
        "alertmanager/alertmanager.yml": alertmanager_yaml(monitor),
        "postgres/queries.yml": queries_yaml(),
    }
    for group in groups:
        made[f"prometheus/{render.rules_path(group.name)}"] = render.rules_yaml(group, monitor.patience)
        if monitor.patience == 1:  # the cases are of the declared times
            tests = render.tests_yaml(group, load.cases(group, monitor))
            made[f"prometheus/{render.tests_path(group.name)}"] = tests
    made |= provisioning(settings) | logs.files(settings)
    if dashboards:
        # Imported here: it needs the SDK, which is an extra; whoever renders no dashboards does without.
        from trunkline.monitor.dashboards import all_dashboards

        made |= {f"grafana/dashboards/{uid}.json": text for uid, text in all_dashboards(monitor).items()}
    if monitor.compose:
        made[compose.PATH] = compose.compose_yaml(settings)
    if monitor.kubernetes:
        made |= kubernetes.files(settings)
    return dict(sorted(made.items()))


def write(directory: Path, texts: dict[str, str]) -> list[str]:
    """Write the files that are missing or changed.

    Args:
        directory: made when missing.
        texts: what `files` made.

    Returns:
        The relative paths that were written.

    Raises:
        StartError: a file cannot be written.
    """
    written = [path for path, kind in drift(directory, texts) if kind != "extra"]
    for path in written:
        try:
            (directory / path).parent.mkdir(parents=True, exist_ok=True)
            # They hold no secret, and other programs run as other users.
            replace_file(directory / path, texts[path].encode(), 0o644)
        except OSError as error:
            raise StartError(
                f"{directory / path} cannot be written: {error.strerror}", "Name a directory that can be written."
            ) from None
    return written


def drift(directory: Path, texts: dict[str, str]) -> list[Difference]:
    """How a directory differs from the texts, by path.

    Args:
        directory: where they were written.
        texts: what `files` makes now.

    Raises:
        StartError: a file or directory cannot be read.
    """
    found: list[Difference] = []
    try:
        for path, text in texts.items():
            file = directory / path
            if not file.exists():
                found.append(Difference(path, "missing"))
            elif not file.is_file() or file.read_bytes() != text.encode():
                found.append(Difference(path, "changed"))
        for top in sorted({path.split("/")[0] for path in texts if "/" in path}):
            below = (file.relative_to(directory).as_posix() for file in (directory / top).rglob("*") if file.is_file())
            found += [Difference(path, "extra") for path in below if path not in texts]
    except OSError as error:
        raise StartError(f"{error.filename or directory} cannot be read: {error.strerror}", "Check it.") from None
    return sorted(found)
