#!/usr/bin/env bash
#
# Measures the server beside others on this machine: the table of rows, several
# rounds of it, into target/bench/report.{txt,json,svg}. Arguments go to the
# program that does it: --quick, --rounds N, --curves, --help and more.
#
# Fails if the server lost a diff, and never because something was slow. Needs
# Rust; installs nats-server (from Debian's packages) where it is missing.
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
need taskset util-linux

cargo build --locked --quiet --release -p persist-pubsub-server -p persist-pubsub-compat-tests \
    --bin persist-pubsub --bin compare --bin yardstick
# The sockets of 2,000 sessions, at both ends.
ulimit -n "$(ulimit -Hn)"
exec target/release/compare "$@"
