#!/usr/bin/env bash
#
# Packages the crates that a host embeds, and builds what is in the packages
# where a host would: outside of this workspace, bare and with all features,
# with the oldest versions of their dependencies that their manifests allow.
set -euo pipefail
shopt -s inherit_errexit

cd "$(dirname "${BASH_SOURCE[0]}")/.."
folder=$PWD/target/packaged
sources=$folder/sources
rm -rf "$sources" "$folder/package"
mkdir -p "$sources"

# Dirty, for a developer's sake; what is ignored by git is not packaged.
cargo package --locked --allow-dirty --no-verify --target-dir "$folder" \
    -p persist-pubsub-proto -p persist-pubsub-client
for package in "$folder"/package/*.crate; do
    tar -xzf "$package" -C "$sources"
done
cd "$sources"
cat >Cargo.toml <<EOF
[workspace]
resolver = "3"
members = ["persist-pubsub-*"]

# As if it were published.
[patch.crates-io]
persist-pubsub-proto = { path = "$(echo persist-pubsub-proto-*)" }
EOF

# Nothing else is nightly about it: the compiler is the stable one.
RUSTC_BOOTSTRAP=1 cargo -Z direct-minimal-versions generate-lockfile
for features in '' --all-features; do
    # shellcheck disable=SC2086 # none, or one word
    cargo check --locked --lib -p persist-pubsub-client $features --target-dir "$folder"
done
