#!/usr/bin/env bash
#
# Builds what is kept of a release in releases/VERSION: the client crate with
# the program that the matrix drives it by, and the server, both from their
# packages, outside of this workspace, with the versions of their dependencies
# that the release was made with.
#
#   ./compat-tests/released.sh 0.1.0
#
# The programs are in target/released/VERSION/bin. Once built they stay, until
# what is kept of the release changes.
set -euo pipefail
shopt -s inherit_errexit

cd "$(dirname "${BASH_SOURCE[0]}")/.."
version=${1:?usage: released.sh VERSION}
release=$PWD/compat-tests/releases/$version
folder=$PWD/target/released/$version
[[ -d $release/packages ]] || {
    echo "released.sh: there is no release $version in compat-tests/releases" >&2
    exit 1
}

# One builds; who comes meanwhile waits, and finds it built.
mkdir -p "$folder"
exec 9>"$folder.lock"
flock 9

stamp=$(cat "$release"/packages/*.crate "$release"/client.rs compat-tests/released.sh | sha256sum)
if [[ -e $folder/stamp && $(<"$folder/stamp") == "$stamp" ]]; then exit; fi

sources=$folder/sources
rm -rf "$sources" "$folder/bin" "$folder/stamp"
mkdir -p "$sources/matrix-client/src" "$folder/bin"
for package in "$release"/packages/*.crate; do
    tar -xzf "$package" -C "$sources"
done
cp "$release/client.rs" "$sources/matrix-client/src/main.rs"
cat >"$sources/matrix-client/Cargo.toml" <<EOF
[package]
name = "matrix-client"
version = "$version"
edition = "2024"
publish = false

[dependencies]
persist-pubsub-client = "=$version"
tokio = { version = "1", features = ["macros", "rt-multi-thread"] }
EOF
cat >"$sources/Cargo.toml" <<EOF
[workspace]
resolver = "3"
members = ["matrix-client", "persist-pubsub-server-$version"]

# As if they were published.
[patch.crates-io]
persist-pubsub-proto = { path = "persist-pubsub-proto-$version" }
persist-pubsub-client = { path = "persist-pubsub-client-$version" }

[profile.dev]
debug = false
EOF
cp "$release/Cargo.lock" "$sources/Cargo.lock"
# release.sh, which makes the file, sets UNLOCKED.
locked=(--locked)
if [[ -n ${UNLOCKED:-} ]]; then locked=(); fi
(cd "$sources" && cargo build "${locked[@]}" --bins --target-dir "$folder/target")
cp "$folder/target/debug/matrix-client" "$folder/target/debug/persist-pubsub" "$folder/bin/"
echo "$stamp" >"$folder/stamp"
