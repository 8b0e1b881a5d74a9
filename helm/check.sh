#!/usr/bin/env bash
#
# Checks the chart with the programs that operators use: helm, Kubernetes' own
# schemas, promtool. compat-tests/run.sh installs them and calls this; it can be
# called alone afterwards. --write writes the golden renders anew.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PATH=$PWD/target/tools/operate/current/bin:$PWD/target/tools/bin:$PATH

for program in helm promtool; do
    command -v "$program" >/dev/null || {
        echo "helm/check.sh: $program is missing: ./compat-tests/run.sh installs it" >&2
        exit 1
    }
done
# The flags that the chart may pass are those of the server of this tree.
serve_help=$(cargo run --locked --quiet -p persist-pubsub-server -- serve --help)
SERVE_HELP=$serve_help python3 helm/check.py "$@"
promtool check rules helm/persist-pubsub/files/rules.yaml
promtool test rules helm/tests/rules.yaml
