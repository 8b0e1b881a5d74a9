#!/usr/bin/env bash
#
# Builds the image without a registry, looks at what is in it, runs it as a
# container runtime would (its user, a read-only root, nothing of this machine
# but /proc), asks for its health by its own health check, publishes and
# receives, and stops it. Then looks at compose.yaml. compat-tests/run.sh
# installs what that needs (buildah, Python with PyYAML, promtool) and calls this.
set -euo pipefail
shopt -s inherit_errexit
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PATH=$PWD/target/tools/operate/current/bin:$PWD/target/tools/bin:$PATH

# What the image may be at most.
MAX_BYTES=25000000
IMAGE=localhost/persist-pubsub

fail() {
    printf 'docker/check.sh: %s\n' "$*" >&2
    exit 1
}

# A store of our own, in target/: nothing of it is left to other programs.
builder() {
    buildah --root "$PWD/target/buildah/root" --runroot "$PWD/target/buildah/run" --storage-driver vfs "$@"
}

build() {
    local target folder=target/image-context version revision
    target=$(rustc -vV | sed -n 's/^host: //p')
    RUSTFLAGS='-C target-feature=+crt-static' \
        cargo build --locked --quiet --profile image --target "$target" -p persist-pubsub-server
    rm -rf "$folder"
    mkdir -p "$folder"
    cp "target/$target/image/persist-pubsub" "$folder/"
    version=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -n 1)
    revision=$(git rev-parse HEAD 2>/dev/null || echo unknown)
    builder build --quiet --isolation chroot --format docker --build-context "build=$folder" \
        --build-arg "VERSION=$version" --build-arg "REVISION=$revision" \
        --file docker/Dockerfile --tag "$IMAGE" . >/dev/null
}

# expect WHAT IS WANTED
expect() {
    [[ $2 == "$3" ]] || fail "$1 is '$2', not '$3'"
}

config() {
    builder inspect --type image --format "{{$1}}" "$IMAGE"
}

look() {
    local root=$1 bytes
    expect 'what the image holds' "$(cd "$root" && find . -type f -o -type l)" ./persist-pubsub
    expect 'its mode' "$(stat -c '%a %u' "$root/persist-pubsub")" '555 0'
    bytes=$(stat -c %s "$root/persist-pubsub")
    ((bytes <= MAX_BYTES)) || fail "the image has $bytes bytes; $MAX_BYTES are allowed"
    expect 'its user' "$(config .Docker.Config.User)" 65532:65532
    expect 'its health check' "$(config .Docker.Config.Healthcheck.Test)" \
        '[CMD /persist-pubsub healthcheck --server=http://127.0.0.1:6880]'
    expect 'its entry' "$(config .Docker.Config.Entrypoint) $(config .Docker.Config.Cmd)" '[/persist-pubsub] [serve]'
    expect 'its signal' "$(config .Docker.Config.StopSignal)" SIGTERM
    expect 'its licence' "$(config 'index .Docker.Config.Labels "org.opencontainers.image.licenses"')" Apache-2.0
    expect 'its revision' "$(config 'index .Docker.Config.Labels "org.opencontainers.image.revision"')" \
        "$(git rev-parse HEAD 2>/dev/null || echo unknown)"
    printf 'image: %s bytes, one file\n' "$bytes"
}

# ready COMMAND...: waits until it succeeds. Never waited out when all is well.
ready() {
    local tries
    for ((tries = 0; tries < 600; tries++)); do
        if "$@" >/dev/null 2>&1; then return; fi
        kill -0 "$server" 2>/dev/null || fail "the server ended: $(cat "$log")"
        sleep 0.1
    done
    fail "waited in vain for: $*: $(cat "$log")"
}

# Inside namespaces of its own: nobody has the image's ports, nothing of it is
# left, and what is mounted concerns nobody else.
inside() {
    local root=$1 environment contained tap
    log=$2
    ip link set lo up
    mkdir -p "$root/proc"
    mount --bind "$root" "$root"
    mount -o remount,bind,ro "$root"
    mount -t proc proc "$root/proc"
    if touch "$root/x" 2>/dev/null; then fail 'the root can be written to'; fi
    readarray -t environment < <(config 'range .Docker.Config.Env}}{{println .}}{{end' | sed '/^$/d')
    # The image has no env: the environment is put around chroot.
    contained=(env -i "${environment[@]}" PERSIST_PUBSUB_DRAIN_WINDOW=30m PERSIST_PUBSUB_DRAIN_TIMEOUT=1h
        "$(command -v chroot)" "--userspec=$(config .Docker.Config.User)" "$root" /persist-pubsub)

    "${contained[@]}" serve >"$log" 2>&1 &
    server=$!
    ready "${contained[@]}" healthcheck --server=http://127.0.0.1:6880
    expect 'who it runs as' "$(stat -c %u "/proc/$server")" 65532
    "${contained[@]}" healthcheck
    "${contained[@]}" check
    "${contained[@]}" check --wire v0

    # It stays for the sake of a session, says that it is not to be used, and
    # goes when the session is gone.
    "${contained[@]}" tap s00000000-0000-0000-0000-000000000001 >"$log.tap" 2>&1 &
    tap=$!
    ready grep -q resync "$log.tap"
    kill -TERM "$server"
    ready grep -q not-ready "$log"
    if "${contained[@]}" healthcheck --server=http://127.0.0.1:6880 2>"$log.health"; then
        fail 'it is healthy while it drains'
    fi
    expect 'its health while it drains' "$(cat "$log.health")" 'error: not serving: NOT_SERVING'
    "${contained[@]}" healthcheck --server=http://127.0.0.1:6880 --service=live
    kill -KILL "$tap"
    wait "$server" || fail "it ended with $?: $(cat "$log")"
    grep -q 'every stream had ended' "$log" || fail "it did not drain: $(cat "$log")"
    echo 'image: serves, is healthy, publishes and receives, drains'
}

if [[ ${1-} == --inside ]]; then
    inside "$2" "$3"
    exit
fi

[[ $(id -u) -eq 0 ]] || fail 'only root may change the root: run it as root (as in a container)'
build
container=$(builder from --pull-never "$IMAGE")
scratch=$(mktemp -d)
trap 'builder rm "$container" >/dev/null; builder rmi --prune >/dev/null || true; rm -rf "$scratch"' EXIT
root=$(builder mount "$container")
look "$root"
unshare --mount --net --pid --mount-proc --fork --kill-child "$0" --inside "$root" "$scratch/log"
python3 docker/check_compose.py
