#!/usr/bin/env bash
# The crates without std, built for machines unlike this one: other processors, 32 bits, big-endian. And the queues'
# tests, run on a big-endian one.
#
# No core comes built for these from where this may run, so it is built from its source, by a compiler that comes with
# that: see install-cross.sh.
set -euo pipefail
cd "$(dirname "$0")/.."

root=$(ci/install-cross.sh)
export RUSTC=$root/usr/bin/rustc
# The compiler is a stable one; building its library is what it calls unstable.
export RUSTC_BOOTSTRAP=1
export LD_LIBRARY_PATH=$root/usr/lib/x86_64-linux-gnu${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
export CARGO_TARGET_DIR=$PWD/target/cross/build
unset RUSTFLAGS
cargo=$root/usr/bin/cargo

crates=(-p virtio-kit-spec -p virtio-kit-ring -p virtio-kit -p virtio-kit-drivers -p virtio-kit-devices)
targets=(aarch64-unknown-none riscv64gc-unknown-none-elf thumbv7em-none-eabihf i686-unknown-linux-gnu
    s390x-unknown-linux-gnu)
for target in "${targets[@]}"; do
    "$cargo" build --quiet -Zbuild-std=core,alloc "${crates[@]}" --target "$target"
    echo "$target: builds"
done

# Big-endian, where every byte order that was forgotten shows.
bin=$root/usr/bin
libraries=$root/usr/s390x-linux-gnu/lib
export CARGO_TARGET_S390X_UNKNOWN_LINUX_GNU_LINKER=$bin/s390x-linux-gnu-gcc
export CARGO_TARGET_S390X_UNKNOWN_LINUX_GNU_RUSTFLAGS="-L $libraries -C link-arg=-B$libraries"
export CARGO_TARGET_S390X_UNKNOWN_LINUX_GNU_RUNNER="$bin/qemu-s390x-static -L $root/usr/s390x-linux-gnu"
"$cargo" test --quiet -Zbuild-std --target s390x-unknown-linux-gnu -p virtio-kit-spec -p virtio-kit-ring \
    --lib --test pair
echo "s390x-unknown-linux-gnu: tests pass"
