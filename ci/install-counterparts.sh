#!/usr/bin/env bash
# Builds the published vhost-user back-ends that the tests drive, into the checkout's target folder.
set -euo pipefail
cd "$(dirname "$0")/.."

root=target/counterparts
for crate in vhost-device-rng vhost-device-console; do
    [ -x "$root/bin/$crate" ] || cargo install --quiet --locked --root "$root" --version 0.1.0 "$crate"
done
