#!/bin/sh
# Unpacks what bench/peers needs of Linux's sources into target/linux: the ring code and its benchmarks.
#
# Debian 12's own package, which is downloaded, not installed. Nothing of it is ever part of this repository. Does
# nothing if it is there.
set -eu
cd "$(dirname "$0")/.."

version=6.1
top=$PWD/target/linux

say() { echo "install-linux-source: $*" >&2; }

[ ! -e "$top/ready" ] || exit 0

command -v apt-get >/dev/null 2>&1 && command -v dpkg >/dev/null 2>&1 || {
    say "no apt-get and dpkg here: Linux $version is taken from Debian's package linux-source-$version"
    exit 1
}

rm -rf "$top"
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
(cd "$top/debs" && quiet apt apt-get download "linux-source-$version")
name=linux-source-$version
# The archive inside the package, and of it only these folders.
dpkg-deb --fsys-tarfile "$top"/debs/*.deb | tar xO "./usr/src/$name.tar.xz" |
    tar xJ -C "$top" --strip-components 1 --wildcards \
        "$name/tools/virtio" "$name/tools/include" "$name/include" "$name/usr/include" "$name/drivers/virtio" \
        "$name/drivers/vhost"
found=$(basename "$top"/debs/*.deb .deb)
rm -rf "$top/lists" "$top/debs" "$top/log"
echo "$found" >"$top/ready"
say "$found in $top"
