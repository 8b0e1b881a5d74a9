#!/usr/bin/env bash
#
# Tries the mutations: each breaks one promise in the code, and the test that it
# names has to fail. Without arguments all of them, else those whose name
# contains one of the arguments. What is committed is what is tried.
#
# Prints a table, and exits with 0 only if the tests pass without a mutation,
# and every mutation compiled and was noticed. Needs nothing but Rust and git.
set -euo pipefail
shopt -s inherit_errexit

cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=$PWD
# How long a test of a mutant waits for what does not come, and how long it may
# take in all: a test that never ends by itself is a failure too.
export PATIENCE_SECONDS=${PATIENCE_SECONDS:-15}
most=${MUTANT_SECONDS:-120}
# One folder for all, always the same: only what a mutation touches is built again.
export CARGO_TARGET_DIR=$root/target/mutants CARGO_PROFILE_DEV_DEBUG=0
tree=$CARGO_TARGET_DIR/tree

CARGO_TARGET_DIR=$root/target cargo build --quiet --locked -p persist-pubsub-compat-tests --bin mutate
mutate=$root/target/debug/mutate
mkdir -p "$CARGO_TARGET_DIR"
exec 9>"$CARGO_TARGET_DIR/running"
flock --nonblock 9 || { echo 'mutants.sh runs already' >&2; exit 2; }
end() {
    git -C "$root" worktree remove --force "$tree" 2>/dev/null || true
    rm -rf "$tree"
    git -C "$root" worktree prune
}
trap end EXIT
end
git worktree add --quiet --detach "$tree" HEAD
cd "$tree"
log=$CARGO_TARGET_DIR/mutant.log

# As a test run of the whole workspace would, so that the server which a test
# starts as a child is there as well.
build() { cargo build --quiet --locked -j2 --workspace --test all --bin persist-pubsub >"$log" 2>&1; }
try() { timeout "$most" cargo test --quiet --locked --workspace --test all "$@" >>"$log" 2>&1; }

if ! build || ! try promises::; then
    tail -n 40 "$log" >&2
    echo 'the tests fail without a mutation' >&2
    exit 2
fi
survivors=0
printf '%-14s | %-50s | %s\n' promise mutation 'test that fails'
while IFS=$'\t' read -r promise name test; do
    if (($# > 0)); then
        wanted=
        for part in "$@"; do [[ $name == *"$part"* ]] && wanted=1; done
        [[ $wanted ]] || continue
    fi
    git checkout --quiet -- .
    "$mutate" "$name" "$tree"
    if ! build; then
        verdict='DOES NOT COMPILE'
    elif try "$test"; then
        verdict='SURVIVES'
    else
        verdict=$(sed -n 's/^    \(.*::.*\)$/\1/p' "$log" | sort -u | head -n1)
        verdict=${verdict:-"$test (does not end)"}
    fi
    case $verdict in
    SURVIVES | 'DOES NOT COMPILE')
        survivors=$((survivors + 1))
        tail -n 20 "$log" >&2
        ;;
    esac
    printf '%-14s | %-50s | %s\n' "$promise" "$name" "$verdict"
    # Why it fails, for whoever wants to know.
    cp "$log" "$CARGO_TARGET_DIR/$name.log"
done < <("$mutate" list)
echo "$survivors not noticed"
((survivors == 0))
