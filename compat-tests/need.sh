# shellcheck shell=bash
# What run.sh and bench.sh share: a word on what is done, and programs from
# Debian's packages. To be sourced.

step() {
    printf '\n==> [%4d s] %s\n' "$SECONDS" "$*"
}

fail() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

# need PROGRAM PACKAGE...: installs the Debian packages if there is no PROGRAM.
need() {
    local program=$1 root=()
    shift
    if command -v "$program" >/dev/null; then return; fi
    step "apt-get install $*"
    command -v apt-get >/dev/null ||
        fail "$program is missing, and there is no apt-get: install it (Debian calls it: $*)"
    if [[ $(id -u) -ne 0 ]]; then
        { command -v sudo && sudo -n true; } >/dev/null 2>&1 ||
            fail "$program is missing; to install it: sudo apt-get install $*"
        root=(sudo)
    fi
    "${root[@]}" apt-get -q update
    "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qy install --no-install-recommends "$@"
}
