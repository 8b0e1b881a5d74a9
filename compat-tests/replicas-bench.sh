#!/usr/bin/env bash
#
# Measures what replicas cost beside one server, on this machine, and computes
# from it how many environments they carry: figures into
# target/replicas-bench/figures.json, both as text. Arguments go to the program
# that does it: --rounds N, --model-from FILE, the model's load and machines;
# --help lists them.
#
# Fails if a diff is lost, and never because something was slow. Needs Rust;
# installs nats-server (from Debian's packages) where it is missing.
set -euo pipefail
shopt -s inherit_errexit

cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=compat-tests/need.sh
source compat-tests/need.sh

command -v cargo >/dev/null || fail 'cargo is missing: see https://rustup.rs'
need cc gcc libc6-dev
# Where Debian puts it; not on everybody's PATH.
export PATH=$PATH:/usr/sbin
need nats-server nats-server

cargo build --locked --quiet --release -p persist-pubsub-server -p persist-pubsub-compat-tests \
    --bin persist-pubsub --bin replicas-bench
# The sockets of 500 sessions, at both ends.
ulimit -n "$(ulimit -Hn)"
exec target/release/replicas-bench "$@"
