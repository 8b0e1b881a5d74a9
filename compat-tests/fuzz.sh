#!/usr/bin/env bash
#
# Runs one fuzz target for a time: fuzz.sh TARGET SECONDS
#
# Needs a nightly Rust and a C++ compiler; installs cargo-fuzz into
# target/tools. Begins with fuzz/corpus/TARGET and keeps what it finds beside
# it in fuzz/target/corpus/TARGET. What failed is left in
# fuzz/artifacts/TARGET: once it is mended, it goes into fuzz/corpus/TARGET
# under a name that begins with "regression-".
set -euo pipefail
shopt -s inherit_errexit

cd "$(dirname "${BASH_SOURCE[0]}")"
# shellcheck source=compat-tests/tools.env
source tools.env

target=${1:-} seconds=${2:-}
if [[ ! -e fuzz/fuzz_targets/$target.rs || ! $seconds =~ ^[0-9]+$ ]]; then
    printf 'usage: %s TARGET SECONDS; the targets:\n' "$0" >&2
    (cd fuzz/fuzz_targets && printf '  %s\n' *.rs | sed 's/\.rs$//') >&2
    exit 2
fi

tools=$PWD/../target/tools
if [[ ! -x $tools/bin/cargo-fuzz ]]; then
    cargo install cargo-fuzz --version "$CARGO_FUZZ_VERSION" --locked --root "$tools"
fi
export PATH=$tools/bin:$PATH

# The dependencies in the workspace's versions.
cp ../Cargo.lock fuzz/Cargo.lock
mkdir -p "fuzz/target/corpus/$target"
cd fuzz
# Without a sanitizer of memory: the project forbids unsafe code, and a server
# is started for each input of `sessions`. One core. An input may not take longer than 10 s, nor 1 GiB.
exec cargo +nightly fuzz run --sanitizer none --fuzz-dir . "$target" "target/corpus/$target" "corpus/$target" -- \
    -max_total_time="$seconds" -timeout=10 -rss_limit_mb=1024 -print_final_stats=1
