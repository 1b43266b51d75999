#!/bin/bash
# Made by `trunkline monitor render`: retention, templates and users of Elasticsearch. It may run any number of times.
set -euo pipefail
es=http://elasticsearch:9200
here=$(dirname "$0")
secret() { tr -d '\n' < "${SECRETS:-/run/secrets}/$1"; }
quoted() { secret "$1" | sed 's/[\\"]/\\&/g'; }
# The password goes in as a file of options, for a command line can be read by every process.
call() { curl -sS --fail-with-body -K <(printf 'user = "elastic:%s"\n' "$(quoted elastic_password)") "$@"; }
put() { call -X PUT "$es/$1" -H 'Content-Type: application/json' --data-binary "@$2"; }
post() { call -X POST "$es/$1" -H 'Content-Type: application/json' --data-binary @-; }

for kind in app error; do
  put "_ilm/policy/trunkline-$kind" "$here/ilm-$kind.json"
  put "_index_template/logs-trunkline.$kind" "$here/template-$kind.json"
done
put _security/role/trunkline_filebeat "$here/role-filebeat.json"
printf '{"password":"%s","roles":["trunkline_filebeat"]}' "$(quoted filebeat_password)" \
  | post _security/user/trunkline_filebeat
printf '{"password":"%s"}' "$(quoted kibana_password)" | post _security/user/kibana_system/_password
echo "Elasticsearch is set up"
