#!/usr/bin/env bash
# Everything that must hold before a change lands. People and CI run the same script.
#
#   ./ci.sh          format, lints, docs, all tests, the demo, the instruction bars; under half an hour
#   ./ci.sh --long   the same, and then what takes longer
#
# What the tests need and the machine lacks is installed first; nothing is skipped because it is missing.
set -euo pipefail
cd "$(dirname "$0")"

long=false
case "${1:-}" in
    "") ;;
    --long) long=true ;;
    *) echo "usage: ./ci.sh [--long]" >&2; exit 2 ;;
esac

step() { printf '\n== %s (%s s)\n' "$*" "$SECONDS"; }

step "tools"
ci/install-tools.sh

step "format"
cargo fmt --all --check
(cd guest && cargo fmt --check)

step "lints"
cargo clippy --workspace --all-targets --quiet -- -D warnings
cargo clippy --package virtio-kit-ring --no-default-features --quiet -- -D warnings
cargo clippy --package virtio-kit --all-features --all-targets --quiet -- -D warnings
# The kernel, which is a workspace of its own.
(cd guest && cargo clippy --release --quiet --target-dir target/plain -- -D warnings)

step "docs"
RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --quiet

step "where unsafe is"
ci/unsafe.sh

step "tests"
cargo test --workspace --quiet
cargo test --package virtio-kit --all-features --lib --quiet

step "the notification primitive, by a model checker"
RUSTFLAGS="--cfg loom" cargo test --package virtio-kit-ring --test loom --release --target-dir target/loom --quiet

step "demo"
cargo run --release --quiet -- demo

step "instructions per request"
cargo bench --quiet --package virtio-kit-bench --bench instructions -- --only /3/batch --check

if $long; then
    step "long: mutants, each a check of the rings that a test must miss"
    crates/testkit/mutants/run.sh

    step "long: a server is killed, 50 times in each arrangement"
    VKIT_KILLS=50 cargo test --package vkit --test kill --quiet -- --test-threads 1
    VKIT_KILLS=20 cargo test --package vkit --test guest_kill --quiet -- --test-threads 1

    step "long: beside the peers, a short run of all of it"
    cargo build --release --quiet --package virtio-kit-peers --package vkit
    target/release/virtio-kit-peers --rounds 1 --minutes 0 >/dev/null

    step "long: guests and DPDK, more of it"
    VKIT_MIB=64 cargo test --package vkit --test guest_net --quiet -- --test-threads 1
    VIRTIO_KIT_FRAMES=200000 cargo test --package virtio-kit-linux --test dpdk_front_end --quiet

    step "long: other machines"
    ci/targets.sh

    step "long: instructions of a request, beside another driver's, in the kernel"
    cargo guest --compare
fi

step "done"
