#!/bin/sh
# Unpacks DPDK's testpmd and what it needs into target/dpdk, for the tests that have it as their counterpart.
#
# Debian 12 has DPDK 22.11. To install it would draw in 200 packages; unpacked it is some 60, and the system is
# left alone: lists, packages and programs are all in target/dpdk. Does nothing if they are there.
set -eu
cd "$(dirname "$0")/.."

say() { echo "install-dpdk: $*" >&2; }

top=$PWD/target/dpdk
root=$top/root
libs=$root/usr/lib/$(uname -m)-linux-gnu
version=22.11
abi=23
# What is loaded by name, since nothing links to it.
plugins="mempool_ring bus_vdev net_vhost net_virtio"

[ ! -e "$top/ready" ] || exit 0

command -v apt-get >/dev/null 2>&1 && command -v dpkg >/dev/null 2>&1 || {
    say "no apt-get and dpkg here: DPDK $version is taken from the packages of Debian 12"
    exit 1
}

mkdir -p "$top/lists/partial" "$top/debs"

# apt with all its state in the checkout; the sources are the system's.
apt() {
    command=$1
    shift
    "$command" -o Dir::State::lists="$top/lists" -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= \
        -o Acquire::Retries=3 -o APT::Sandbox::User="$(id -un)" "$@"
}

quiet() {
    if ! "$@" >"$top/log" 2>&1; then
        cat "$top/log" >&2
        say "failed: $*"
        exit 1
    fi
}

quiet apt apt-get update
found=$(apt apt-cache policy dpdk-dev | sed -n 's/^ *Candidate: //p')
case $found in
    "$version"*) ;;
    *)
        say "this system offers DPDK ${found:-not at all}; $version of Debian 12 is needed"
        exit 1
        ;;
esac

# Downloads packages and unpacks them.
take() {
    rm -f "$top"/debs/*.deb
    (cd "$top/debs" && quiet apt apt-get download "$@")
    for deb in "$top"/debs/*.deb; do
        dpkg -x "$deb" "$root"
    done
    rm -f "$top"/debs/*.deb
}

# The package that a shared library is in, by the rule of Debian's names.
package() {
    case $1 in
        libmlx[45].so.*) echo ibverbs-providers ;;
        libcrypto.so.3) echo libssl3 ;;
        libz.so.1) echo zlib1g ;;
        *)
            name=${1%%.so.*}
            number=${1#*.so.}
            case $name in
                *[0-9]) dash=- ;;
                *) dash= ;;
            esac
            echo "$name$dash$number" | tr _ -
            ;;
    esac
}

# Libraries that the program and its plugins still lack.
missing() {
    for plugin in $plugins; do
        find "$libs" -name "librte_$plugin.so.$abi" 2>/dev/null | grep -q . || echo "librte_$plugin.so.$abi"
    done
    for file in "$root/usr/bin/dpdk-testpmd" $(find "$libs" -name 'librte_*.so.*' 2>/dev/null); do
        LD_LIBRARY_PATH=$libs:$libs/dpdk/pmds-$abi.0 ldd "$file" | sed -n 's/^[[:space:]]*\([^ ]*\) => not found/\1/p'
    done | sort -u
}

rm -rf "$root"
take dpdk-dev
# Libraries need libraries: a few rounds find them all.
for round in 1 2 3 4 5 6; do
    lacking=$(missing)
    [ -n "$lacking" ] || break
    # shellcheck disable=SC2046
    take $(for library in $lacking; do package "$library"; done | sort -u)
done
lacking=$(missing)
[ -z "$lacking" ] || {
    say "no package found for: $lacking"
    exit 1
}
LD_LIBRARY_PATH=$libs:$libs/dpdk/pmds-$abi.0 "$root/usr/bin/dpdk-testpmd" --help 2>&1 | grep -q "EAL common options" || {
    say "unpacked, but dpdk-testpmd does not run"
    exit 1
}
rm -rf "$top/lists" "$top/debs" "$top/log"
echo "$found" >"$top/ready"
say "dpdk-testpmd $found in $root"
