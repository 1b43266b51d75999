"""Filebeat, Elasticsearch and Kibana for the log files of nodes and balancers, from `data/logs/`. Pure.

Rules:

- Filebeat reads the lines as they are: they have the Elastic Common Schema's names already (`log.format = "ecs"`).
- Application logs and error logs are data streams of their own, because they are kept for different times. An error
  stands in both files and is taken from the error log alone.
- The age of an index counts from its rollover: with one a day, a line lives for its days and at most one more.
- The index templates have priority 200, above Elasticsearch's own for `logs-*-*` (100), and no replica: on one machine
  it would have nowhere to go. Their fields are those of our lines, with the types of the schema.
- Every password comes from a file, reaches no command line, and stands in no file made here. Filebeat's user may add
  documents to our streams and nothing else.
"""

from __future__ import annotations

from typing import Final

from trunkline.monitor.text.data_files import data_file, filled
from trunkline.monitor.text.yaml_writer import dump
from trunkline.settings.sections import Settings

DIRECTORY: Final = "/var/log/trunkline"
"""Where the containers find the log files."""


def files(settings: Settings) -> dict[str, str]:
    """Every file of the profile `logging`, by its path within the bundle.

    Args:
        settings: `log`: where the files are, and for how many days lines are kept.
    """
    log = settings.log
    # A relative directory means nothing to Docker.
    directory = str(log.directory) if log.directory is not None and log.directory.is_absolute() else DIRECTORY
    found = {
        "logs/compose.yml": dump(
            data_file("logs/compose.yml").completed({"log_directory": directory}), *_remarks(settings)
        ),
        "logs/filebeat.yml": dump(data_file("logs/filebeat.yml").document),
        "logs/kibana.yml": dump(data_file("logs/kibana.yml").document),
    }
    elastic = "logs/elasticsearch"
    for kind, name, days in (("app", "application", log.keep_days), ("error", "error", log.error_keep_days)):
        known = {"kind": kind, "name": name, "days": str(days)}
        found[f"{elastic}/ilm-{kind}.json"] = filled(f"{elastic}/ilm.json", known)
        found[f"{elastic}/template-{kind}.json"] = filled(f"{elastic}/template.json", known)
    return found | {f"{elastic}/{name}": filled(f"{elastic}/{name}", {}) for name in ("role-filebeat.json", "setup.sh")}


def _remarks(settings: Settings) -> list[str]:
    said = ["docker compose -f compose.yml --profile logging up -d; docs/monitoring-logs.md says what it needs."]
    if settings.log.format != "ecs":
        said.append(
            f'Filebeat reads log.format = "ecs", and the settings say "{settings.log.format}": change it first.'
        )
    if settings.log.directory is None:
        said.append(f"The settings name no log.directory: without one nodes write no files. {DIRECTORY} is assumed.")
    return said
