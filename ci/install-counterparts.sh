#!/usr/bin/env bash
# Builds the published vhost-user back-ends that the tests drive, into the checkout's target folder.
set -euo pipefail
cd "$(dirname "$0")/.."

root=target/counterparts
for crate in vhost-device-rng@0.1.0 vhost-device-console@0.1.0 vhost-device-vsock@0.3.0; do
    [ -x "$root/bin/${crate%@*}" ] || cargo install --quiet --locked --root "$root" "$crate"
done
