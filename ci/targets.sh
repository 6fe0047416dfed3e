#!/usr/bin/env bash
# The crates without std, built for machines unlike this one. Needs the targets' core and alloc from rustup.
set -euo pipefail
cd "$(dirname "$0")/.."

crates=(-p virtio-kit-spec -p virtio-kit-ring -p virtio-kit -p virtio-kit-drivers -p virtio-kit-devices)
for target in i686-unknown-linux-gnu aarch64-unknown-none riscv64gc-unknown-none-elf thumbv7em-none-eabihf; do
    rustup target add "$target"
    cargo build --quiet "${crates[@]}" --target "$target"
    echo "$target: builds"
done
