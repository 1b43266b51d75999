"""Filebeat, Elasticsearch and Kibana for the log files of nodes and balancers. Pure.

Rules:

- Filebeat reads the lines as they are: they have the Elastic Common Schema's names already (`log.format = "ecs"`).
- Application logs and error logs are data streams of their own, for they are kept for different times. An error stands
  in both files and is taken from the error log alone.
- Every password comes from a file, reaches no command line, and stands in no file made here. Filebeat's user may add
  documents to our streams and nothing else.
- Ports are bound to this machine: between the containers the traffic is not encrypted.
"""

from __future__ import annotations

import json
from typing import Final

from trunkline.monitor.text import yaml_text
from trunkline.monitor.text.yaml_text import Document
from trunkline.settings.sections import Settings

VERSION: Final = "8.19.0"
"""Of the images, unless STACK_VERSION says another."""

DIRECTORY: Final = "/var/log/trunkline"
"""Where the containers find the log files."""

APPLICATION: Final = "logs-trunkline.app-default"
ERRORS: Final = "logs-trunkline.error-default"
SECRETS: Final = ("elastic_password", "kibana_password", "filebeat_password")


def files(settings: Settings) -> dict[str, str]:
    """Every file of the profile `logging`, by its path within the bundle."""
    log = settings.log
    return {
        "logs/compose.yml": yaml_text.dump(_compose(settings), *_remarks(settings)),
        "logs/filebeat.yml": yaml_text.dump(_filebeat()),
        "logs/kibana.yml": yaml_text.dump(_kibana()),
        "logs/elasticsearch/setup.sh": _SETUP,
        "logs/elasticsearch/ilm-app.json": _json(_policy(log.keep_days)),
        "logs/elasticsearch/ilm-error.json": _json(_policy(log.error_keep_days)),
        "logs/elasticsearch/template-app.json": _json(_template("app")),
        "logs/elasticsearch/template-error.json": _json(_template("error")),
        "logs/elasticsearch/role-filebeat.json": _json(_role()),
    }


def directory(settings: Settings) -> str:
    """Where the log files are on the machine; a relative `log.directory` means nothing to Docker."""
    given = settings.log.directory
    return str(given) if given is not None and given.is_absolute() else DIRECTORY


def _remarks(settings: Settings) -> list[str]:
    said = ["docker compose -f compose.yml --profile logging up -d; docs/monitoring-logs.md says what it needs."]
    if settings.log.format != "ecs":
        said.append(
            f'Filebeat reads log.format = "ecs", and the settings say "{settings.log.format}": change it first.'
        )
    if settings.log.directory is None:
        said.append(f"The settings name no log.directory: without one nodes write no files. {DIRECTORY} is assumed.")
    return said


def _json(document: Document) -> str:
    return json.dumps(document, indent=2) + "\n"


# --- Filebeat ---------------------------------------------------------------------------------------------------------


def _filebeat() -> Document:
    return {
        "filebeat.inputs": [
            _input(
                "trunkline-app",
                "trunkline*.log",
                APPLICATION,
                [r"\.error\."],
                # What is an error is in the error log too, which is kept for longer.
                {
                    "drop_event": {
                        "when": {
                            "or": [{"equals": {"log.level": "error"}}, {"equals": {"log.level": "critical"}}],
                        }
                    }
                },
            ),
            _input("trunkline-error", "trunkline*.error*.log", ERRORS, [], None),
        ],
        "output.elasticsearch": {
            "hosts": ["http://elasticsearch:9200"],
            "username": "trunkline_filebeat",
            "password": "${FILEBEAT_PASSWORD}",
        },
        # The setup container loads ours; Filebeat's own would be for streams that nobody fills.
        "setup.ilm.enabled": False,
        "setup.template.enabled": False,
        "processors": [{"drop_fields": {"fields": ["agent.ephemeral_id", "input"], "ignore_missing": True}}],
        "logging.level": "warning",
        "logging.to_stderr": True,
        "logging.to_files": False,
    }


def _input(name: str, pattern: str, index: str, left_out: list[str], processor: Document | None) -> Document:
    found: Document = {
        "type": "filestream",
        "id": name,
        "paths": [f"{DIRECTORY}/{pattern}"],
        "index": index,
        # A rotated file keeps its beginning when it is renamed, and a new one may get the inode of one deleted. 256
        # bytes: the first line of a file is longer, and begins with its microsecond.
        "file_identity": {"fingerprint": None},
        "prospector": {
            "scanner": {
                "check_interval": "5s",
                "exclude_files": [*left_out, r"\.gz$"],
                "fingerprint": {"enabled": True, "offset": 0, "length": 256},
            }
        },
        # A rotated file is compressed and its plain form deleted while its end may still be unread.
        "close.on_state_change.removed": False,
        "parsers": [
            {"ndjson": {"target": "", "overwrite_keys": True, "expand_keys": True, "add_error_key": True}},
        ],
    }
    if processor is not None:
        found["processors"] = [processor]
    return found


# --- Elasticsearch ----------------------------------------------------------------------------------------------------


def _policy(days: int) -> Document:
    # The age of an index counts from its rollover: with one a day, a line lives for `days` and at most one more.
    return {
        "policy": {
            "phases": {
                "hot": {"actions": {"rollover": {"max_age": "1d", "max_primary_shard_size": "5gb"}}},
                "delete": {"min_age": f"{days}d", "actions": {"delete": {}}},
            }
        }
    }


def _keyword(limit: int = 1024) -> Document:
    return {"type": "keyword", "ignore_above": limit}


FIELDS: Final[dict[str, str]] = {
    "@timestamp": "date",
    "client.address": "keyword",
    "client.bytes": "long",
    "client.ip": "ip",
    "ecs.version": "keyword",
    "error.message": "match_only_text",
    "error.stack_trace": "wildcard",
    "error.type": "keyword",
    "event.action": "keyword",
    "event.category": "keyword",
    "event.dataset": "keyword",
    "event.duration": "long",
    "event.kind": "keyword",
    "event.module": "keyword",
    "event.outcome": "keyword",
    "event.reason": "keyword",
    "event.type": "keyword",
    "file.path": "keyword",
    "http.request.method": "keyword",
    "http.response.status_code": "long",
    "log.level": "keyword",
    "log.logger": "keyword",
    "message": "match_only_text",
    "process.pid": "long",
    "server.address": "keyword",
    "server.bytes": "long",
    "service.name": "keyword",
    "service.node.name": "keyword",
    "service.version": "keyword",
    "url.full": "wildcard",
    "url.path": "wildcard",
    "user.id": "keyword",
    "user_agent.original": "keyword",
}
"""The schema's fields that our lines have, and the type that the schema gives each."""


def _template(kind: str) -> Document:
    properties: Document = {}
    for name, type_ in FIELDS.items():
        _put(properties, name.split("."), _keyword() if type_ == "keyword" else {"type": type_})
    properties["data_stream"] = {
        "properties": {
            "type": {"type": "constant_keyword", "value": "logs"},
            "dataset": {"type": "constant_keyword", "value": f"trunkline.{kind}"},
            "namespace": {"type": "constant_keyword"},
        }
    }
    return {
        "index_patterns": [f"logs-trunkline.{kind}-*"],
        "data_stream": {},
        # Above 100, the priority of Elasticsearch's own template for logs-*-*.
        "priority": 200,
        "template": {
            "settings": {
                "index.lifecycle.name": f"trunkline-{kind}",
                "index.number_of_shards": 1,
                # One machine: a replica would have nowhere to go.
                "index.number_of_replicas": 0,
            },
            "mappings": {
                "date_detection": False,
                "numeric_detection": False,
                "dynamic_templates": [
                    {"numbers": {"path_match": "trunkline.*", "mapping": {"type": "double"}}},
                    {"labels": {"path_match": "labels.*", "mapping": _keyword()}},
                    {"texts": {"match_mapping_type": "string", "mapping": _keyword()}},
                ],
                "properties": properties,
            },
        },
        "_meta": {"description": f"Trunkline's {'error' if kind == 'error' else 'application'} logs"},
    }


def _put(properties: Document, path: list[str], mapping: Document) -> None:
    for part in path[:-1]:
        properties = properties.setdefault(part, {"properties": {}})["properties"]
    properties[path[-1]] = mapping


def _role() -> Document:
    return {
        "cluster": ["monitor"],
        "indices": [{"names": ["logs-trunkline.*"], "privileges": ["auto_configure", "create_doc"]}],
    }


_SETUP: Final = r"""#!/bin/bash
# Made by `trunkline monitor render`: retention, templates and users of Elasticsearch. It may run any number of times.
set -euo pipefail
es=http://elasticsearch:9200
secret() { tr -d '\n' < "/run/secrets/$1"; }
quoted() { secret "$1" | sed 's/[\\"]/\\&/g'; }
# The password goes in as a file of options, for a command line can be read by every process.
call() { curl -sS --fail-with-body -K <(printf 'user = "elastic:%s"\n' "$(quoted elastic_password)") "$@"; }
put() { call -X PUT "$es/$1" -H 'Content-Type: application/json' --data-binary "@$2"; }
post() { call -X POST "$es/$1" -H 'Content-Type: application/json' --data-binary @-; }

for kind in app error; do
  put "_ilm/policy/trunkline-$kind" "/setup/ilm-$kind.json"
  put "_index_template/logs-trunkline.$kind" "/setup/template-$kind.json"
done
put _security/role/trunkline_filebeat /setup/role-filebeat.json
printf '{"password":"%s","roles":["trunkline_filebeat"]}' "$(quoted filebeat_password)" \
  | post _security/user/trunkline_filebeat
printf '{"password":"%s"}' "$(quoted kibana_password)" | post _security/user/kibana_system/_password
echo "Elasticsearch is set up"
"""


# --- containers -------------------------------------------------------------------------------------------------------


def _kibana() -> Document:
    return {
        "server.host": "0.0.0.0",
        "server.publicBaseUrl": "http://localhost:5601",
        "elasticsearch.hosts": ["http://elasticsearch:9200"],
        "elasticsearch.username": "kibana_system",
        "elasticsearch.password": "${KIBANA_PASSWORD}",
        "telemetry.optIn": False,
    }


def _compose(settings: Settings) -> Document:
    version = f"${{STACK_VERSION:-{VERSION}}}"
    return {
        "name": "trunkline-logs",
        "services": {
            "elasticsearch": {
                "image": f"elasticsearch:{version}",
                "profiles": ["logging"],
                "environment": {
                    "discovery.type": "single-node",
                    "xpack.security.enabled": "true",
                    "xpack.security.http.ssl.enabled": "false",
                    "xpack.security.transport.ssl.enabled": "false",
                    "ELASTIC_PASSWORD_FILE": "/run/secrets/elastic_password",
                    "ES_JAVA_OPTS": "-Xms1g -Xmx1g",
                },
                "secrets": ["elastic_password"],
                "volumes": ["elasticsearch:/usr/share/elasticsearch/data"],
                "ports": ["127.0.0.1:9200:9200"],
                "mem_limit": "2g",
                "healthcheck": {
                    # 401 says that it is up and that it asks for a password.
                    "test": ["CMD-SHELL", "curl -s -o /dev/null -w '%{http_code}' http://localhost:9200 | grep -q 401"],
                    "interval": "5s",
                    "timeout": "5s",
                    "retries": 60,
                },
                "restart": "unless-stopped",
            },
            "elasticsearch-setup": {
                "image": f"elasticsearch:{version}",
                "profiles": ["logging"],
                "entrypoint": ["/bin/bash", "/setup/setup.sh"],
                "secrets": list(SECRETS),
                "volumes": ["./elasticsearch:/setup:ro"],
                "depends_on": {"elasticsearch": {"condition": "service_healthy"}},
                "mem_limit": "128m",
                "restart": "on-failure:5",
            },
            "kibana": {
                "image": f"kibana:{version}",
                "profiles": ["logging"],
                "entrypoint": [
                    "/bin/bash",
                    "-c",
                    # Not ELASTICSEARCH_PASSWORD, which the image would put on Kibana's command line.
                    'export KIBANA_PASSWORD="$$(cat /run/secrets/kibana_password)"; exec /usr/local/bin/kibana-docker',
                ],
                "secrets": ["kibana_password"],
                "volumes": ["./kibana.yml:/usr/share/kibana/config/kibana.yml:ro"],
                "ports": ["127.0.0.1:5601:5601"],
                "mem_limit": "1g",
                "depends_on": {"elasticsearch-setup": {"condition": "service_completed_successfully"}},
                "restart": "unless-stopped",
            },
            "filebeat": {
                "image": f"elastic/filebeat:{version}",
                "profiles": ["logging"],
                # The log files belong to whoever runs the nodes.
                "user": "root",
                "entrypoint": [
                    "/bin/bash",
                    "-c",
                    'export FILEBEAT_PASSWORD="$$(cat /run/secrets/filebeat_password)"; '
                    "exec filebeat -e --strict.perms=false",
                ],
                "secrets": ["filebeat_password"],
                "volumes": [
                    "./filebeat.yml:/usr/share/filebeat/filebeat.yml:ro",
                    f"${{TRUNKLINE_LOGS:-{directory(settings)}}}:{DIRECTORY}:ro",
                    "filebeat:/usr/share/filebeat/data",
                ],
                "mem_limit": "256m",
                "depends_on": {"elasticsearch-setup": {"condition": "service_completed_successfully"}},
                "restart": "unless-stopped",
            },
        },
        "secrets": {name: {"file": f"${{TRUNKLINE_LOG_SECRETS:-../secrets}}/{name}"} for name in SECRETS},
        "volumes": {"elasticsearch": {}, "filebeat": {}},
    }
