#!/usr/bin/env bash
#
# Tries the mutations: each breaks one promise in the code, and the test that it
# names has to fail. Without arguments all of them, else those whose name
# contains one of the arguments. What is committed is what is tried.
#
# Prints a table, and exits with 0 only if every mutation compiled and was
# noticed. Needs nothing but Rust and git.
set -euo pipefail
shopt -s inherit_errexit

cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=$PWD
# A test of a mutant may wait for what never comes: that is a failure too.
patience=${MUTANT_SECONDS:-150}
tree=$(mktemp -d "${TMPDIR:-/tmp}/persist-pubsub-mutants.XXXXXX")
end() {
    git -C "$root" worktree remove --force "$tree" 2>/dev/null || true
    rm -rf "$tree"
}
trap end EXIT

cargo build --quiet --locked -p persist-pubsub-compat-tests --bin mutate
git worktree add --quiet --detach "$tree" HEAD
# One folder for all: only what a mutation touches is built again.
export CARGO_TARGET_DIR=$root/target/mutants
mutate=$root/target/debug/mutate
survivors=0
printf '%-14s | %-50s | %s\n' promise mutation 'test that fails'
while IFS=$'\t' read -r promise name _ package test; do
    if (($# > 0)); then
        wanted=
        for part in "$@"; do [[ $name == *"$part"* ]] && wanted=1; done
        [[ $wanted ]] || continue
    fi
    git -C "$tree" checkout --quiet -- .
    "$mutate" "$name" "$tree"
    log=$tree/mutant.log
    if ! (cd "$tree" && cargo test --quiet --locked -j2 -p "$package" --no-run) >"$log" 2>&1; then
        verdict='DOES NOT COMPILE'
    elif (cd "$tree" && timeout "$patience" cargo test --quiet --locked -j2 -p "$package" "$test") >>"$log" 2>&1; then
        verdict='SURVIVES'
    else
        verdict=$(sed -n 's/^test \(.*\) \.\.\. FAILED$/\1/p; s/^    \(.*::.*\)$/\1/p' "$log" | sort -u | head -n1)
        verdict=${verdict:-"$test (did not end in $patience s)"}
    fi
    case $verdict in
    SURVIVES | 'DOES NOT COMPILE')
        survivors=$((survivors + 1))
        tail -n 20 "$log" >&2
        ;;
    esac
    printf '%-14s | %-50s | %s\n' "$promise" "$name" "$verdict"
done < <("$mutate" list)
echo "$survivors not noticed"
((survivors == 0))
