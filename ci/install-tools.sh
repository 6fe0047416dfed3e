#!/usr/bin/env bash
# Installs what the tests drive, if it is missing: QEMU's storage daemon and device models, DPDK, valgrind.
set -euo pipefail
cd "$(dirname "$0")"

sudo=""
[ "$(id -u)" = 0 ] || sudo="sudo"

./install-qemu.sh
./install-guest.sh
./install-dpdk.sh
./install-counterparts.sh

if ! command -v valgrind >/dev/null; then
    $sudo apt-get update -qq
    $sudo apt-get install -y -qq --no-install-recommends valgrind
fi
