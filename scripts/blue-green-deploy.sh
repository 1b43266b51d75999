#!/bin/sh
# Deploy a colour beside the one that runs, move everybody to it, and keep the verdict as files.
#
#   scripts/blue-green-deploy.sh green --runtime local --app shop:app
#
# It exits as `trunkline deploy run` does: 0 passed, 1 the verdict fails, 3 rolled back, 4 stuck, 5 another deploy runs,
# 6 refused, 130 interrupted (go on with `trunkline deploy resume`).
set -eu
[ $# -ge 1 ] || { echo "usage: $0 COLOUR [options of trunkline deploy run]" >&2; exit 2; }
colour=$1
shift
exec "${TRUNKLINE:-trunkline}" deploy run "$colour" --yes --html "deploy-$colour.html" --junit "deploy-$colour.xml" "$@"
