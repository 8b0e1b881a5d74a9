#!/usr/bin/env bash
#
# Keeps a release for the tests of all later ones, in releases/VERSION: the
# compiled schema, golden transcripts of every scenario, the packages of the
# crates, the program that the matrix drives the client by, and the versions of
# the dependencies.
#
#   ./compat-tests/release.sh           # the workspace's version
#
# Run it on the commit that is released, after run.sh has installed the tools.
# Until the release is out it may be run again. What it writes is committed.
set -euo pipefail
shopt -s inherit_errexit

cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PATH=$PWD/target/tools/bin:$PATH
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -n 1)
release=$PWD/compat-tests/releases/$version
package=$PWD/target/release-packages
rm -rf "$release" "$package/package"
mkdir -p "$release/packages"

(cd proto && buf build --exclude-source-info -o "$release/schema.binpb")

# Not verified here: released.sh builds what is in them. Dirty, so that a
# release can be tried before it is committed.
cargo package --locked --allow-dirty --no-verify --target-dir "$package" \
    -p persist-pubsub-proto -p persist-pubsub-client -p persist-pubsub-server
cp "$package"/package/*.crate "$release/packages/"
cp compat-tests/src/bin/matrix-client.rs "$release/client.rs"

cargo run --locked --quiet -p persist-pubsub-compat-tests --bin transcripts -- "$release/transcripts"

# The workspace's versions, as far as they are needed.
cp Cargo.lock "$release/Cargo.lock"
sources=$PWD/target/released/$version/sources
# This first build leaves out what the packages do not need.
UNLOCKED=1 ./compat-tests/released.sh "$version"
cp "$sources/Cargo.lock" "$release/Cargo.lock"
