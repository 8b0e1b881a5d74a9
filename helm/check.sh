#!/usr/bin/env bash
#
# Checks the chart with the programs that operators use: helm, Kubernetes' own
# schemas, promtool. compat-tests/run.sh installs them and calls this; it can be
# called alone afterwards. --write writes the golden renders anew.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PATH=$PWD/target/tools/operate/current/bin:$PWD/target/tools/bin:$PATH

export PATH=$PATH:/usr/sbin
for program in helm nats-server openssl promtool; do
    command -v "$program" >/dev/null || {
        echo "helm/check.sh: $program is missing: ./compat-tests/run.sh installs it" >&2
        exit 1
    }
done
# What the chart passes is for the server of this tree.
cargo build --locked --quiet -p persist-pubsub-server
python3 helm/check.py "${CARGO_TARGET_DIR:-target}/debug/persist-pubsub" "$@"
promtool check rules helm/persist-pubsub/files/rules.yaml
promtool test rules helm/tests/rules.yaml
