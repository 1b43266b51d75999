"""Loki and Alloy for the log files of nodes and balancers: a tenth of Elasticsearch's memory, no full-text index. Pure.

Rules:

- Labels are few and of few values (service, kind of log, level); whatever else a line holds is found by `| json`.
- Application logs and error logs are told apart by the label `kind`, on which their retention hangs. An error stands in
  both files and is taken from the error log alone.
- Loki asks nobody for a password, so its port is bound to this machine.
"""

from __future__ import annotations

from typing import Final

from trunkline.monitor.files.logs_elastic import DIRECTORY, directory
from trunkline.monitor.text import yaml_text
from trunkline.monitor.text.yaml_text import Document
from trunkline.settings.sections import Settings

LOKI_VERSION: Final = "3.5.0"
ALLOY_VERSION: Final = "v1.9.0"
PROJECT: Final = "trunkline-monitor"
"""Compose's name for the rest of the monitoring."""

FORMATS: Final = {"ecs": ('"log.level"', '"@timestamp"'), "json": ("level", "timestamp")}
"""Where a line holds its level and its time (JMESPath), by format; of files every format but `ecs` is `json`."""


def files(settings: Settings) -> dict[str, str]:
    """Every file of the profile `loki`, by its path within the bundle."""
    return {
        "logs/loki-compose.yml": yaml_text.dump(
            _compose(settings), "docker compose -f loki-compose.yml --profile loki up -d"
        ),
        "logs/loki.yml": yaml_text.dump(_loki(settings)),
        "logs/config.alloy": _alloy(settings),
        "logs/grafana-loki.yml": yaml_text.dump(
            _data_source(settings), "For Grafana's provisioning/datasources, where Loki runs."
        ),
    }


def _loki(settings: Settings) -> Document:
    log = settings.log
    longest = max(log.keep_days, log.error_keep_days)
    return {
        "auth_enabled": False,
        "server": {"http_listen_port": 3100, "log_level": "warn"},
        "common": {
            "path_prefix": "/loki",
            "replication_factor": 1,
            "ring": {"kvstore": {"store": "inmemory"}, "instance_addr": "127.0.0.1"},
            "storage": {"filesystem": {"chunks_directory": "/loki/chunks", "rules_directory": "/loki/rules"}},
        },
        "schema_config": {
            "configs": [
                {
                    "from": "2024-01-01",
                    "store": "tsdb",
                    "object_store": "filesystem",
                    "schema": "v13",
                    # Retention works on tables of a day.
                    "index": {"prefix": "index_", "period": "24h"},
                }
            ]
        },
        "limits_config": {
            "retention_period": f"{log.keep_days * 24}h",
            "retention_stream": [
                {"selector": '{kind="error"}', "priority": 1, "period": f"{log.error_keep_days * 24}h"}
            ],
            "max_query_lookback": f"{longest * 24}h",
            # A file that was written while Loki was away may be days old.
            "reject_old_samples_max_age": f"{longest * 24}h",
            "allow_structured_metadata": True,
        },
        "compactor": {
            "working_directory": "/loki/compactor",
            "retention_enabled": True,
            "delete_request_store": "filesystem",
        },
        "analytics": {"reporting_enabled": False},
    }


def _alloy(settings: Settings) -> str:
    level, timestamp = FORMATS["ecs" if settings.log.format == "ecs" else "json"]
    return "\n".join(
        [
            f"// {yaml_text.MADE_BY}",
            f'// Lines are read as log.format = "{settings.log.format}" writes them into files.',
            "",
            *_source("app", level, timestamp, skip_errors=True),
            *_source("error", level, timestamp, skip_errors=False),
            'loki.write "local" {',
            "  endpoint {",
            '    url = "http://loki:3100/loki/api/v1/push"',
            "  }",
            "}",
            "",
        ]
    )


def _source(kind: str, level: str, timestamp: str, *, skip_errors: bool) -> list[str]:
    # Only files that are being written: their rotated forms hold lines that were read before.
    ending = ".error.log" if kind == "error" else ".log"
    targets = [
        f'    {{ __path__ = "{DIRECTORY}/trunkline{number}{ending}", service = "trunkline", kind = "{kind}" }},'
        for number in ("", "-[0-9]", "-[0-9][0-9]")
    ]
    skip = [
        "  stage.drop {",
        '    source     = "level"',
        '    expression = "^(error|critical)$"',
        "  }",
    ]
    return [
        f'local.file_match "{kind}" {{',
        "  path_targets = [",
        *targets,
        "  ]",
        "}",
        "",
        f'loki.source.file "{kind}" {{',
        f"  targets    = local.file_match.{kind}.targets",
        f"  forward_to = [loki.process.{kind}.receiver]",
        "}",
        "",
        f'loki.process "{kind}" {{',
        "  stage.json {",
        f"    expressions = {{ level = `{level}`, timestamp = `{timestamp}` }}",
        "  }",
        *(skip if skip_errors else []),
        "  stage.timestamp {",
        '    source = "timestamp"',
        '    format = "RFC3339Nano"',
        "  }",
        "  stage.labels {",
        '    values = { level = "" }',
        "  }",
        "  stage.label_drop {",
        # A file's name says nothing that `kind` does not, but for the number of a process.
        '    values = ["filename"]',
        "  }",
        "  forward_to = [loki.write.local.receiver]",
        "}",
        "",
    ]


def _compose(settings: Settings) -> Document:
    loki: Document = {
        "image": f"grafana/loki:{LOKI_VERSION}",
        "profiles": ["loki"],
        "command": ["-config.file=/etc/loki/loki.yml"],
        "volumes": ["./loki.yml:/etc/loki/loki.yml:ro", "loki:/loki"],
        "ports": ["127.0.0.1:3100:3100"],
        "mem_limit": "512m",
        "restart": "unless-stopped",
    }
    networks: Document = {"default": {}}
    if settings.monitor.compose:
        # The Grafana of our docker-compose.yml is to find it by its name.
        loki["networks"] = ["default", "monitoring"]
        networks["monitoring"] = {"external": True, "name": f"{PROJECT}_monitoring"}
    return {
        "name": "trunkline-loki",
        "services": {
            "loki": loki,
            "alloy": {
                "image": f"grafana/alloy:{ALLOY_VERSION}",
                "profiles": ["loki"],
                # The log files belong to whoever runs the nodes.
                "user": "root",
                "command": ["run", "--storage.path=/var/lib/alloy/data", "/etc/alloy/config.alloy"],
                "volumes": [
                    "./config.alloy:/etc/alloy/config.alloy:ro",
                    f"${{TRUNKLINE_LOGS:-{directory(settings)}}}:{DIRECTORY}:ro",
                    "alloy:/var/lib/alloy/data",
                ],
                "mem_limit": "256m",
                "depends_on": ["loki"],
                "restart": "unless-stopped",
            },
        },
        "networks": networks,
        "volumes": {"loki": {}, "alloy": {}},
    }


def _data_source(settings: Settings) -> Document:
    return {
        "apiVersion": 1,
        "datasources": [
            {
                "name": "Loki",
                "uid": "trunkline-loki",
                "type": "loki",
                "access": "proxy",
                "url": "http://loki:3100" if settings.monitor.compose else "http://localhost:3100",
                "editable": True,
                "jsonData": {"maxLines": 1000},
            }
        ],
    }
