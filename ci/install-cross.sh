#!/usr/bin/env bash
# Unpacks, below target/, a Rust that comes with the source of its library, so that the library can be built for
# machines for which none comes built; an s390x linker, and what runs such programs. Prints where.
#
# Debian's rustc-web follows the browsers' needs, so it is new enough. Nothing is installed in the system: its
# programs would hide others of the same names.
set -euo pipefail
cd "$(dirname "$0")/.."

root=$PWD/target/cross
done=$root/done-2
if [ -e "$done" ]; then
    echo "$root"
    exit
fi

wanted="rustc-web cargo-web rust-web-src qemu-user-static gcc-s390x-linux-gnu libc6-dev-s390x-cross"
sudo=""
[ "$(id -u)" = 0 ] || sudo="sudo"
$sudo apt-get update -qq
rm -rf "$root"
mkdir -p "$root/packages"
chmod 755 "$root/packages"
cd "$root/packages"
# shellcheck disable=SC2086 # words
packages=$(apt-get install --simulate --no-install-recommends $wanted | awk '$1 == "Inst" { print $2 }')
# What is installed already is not named, but its files are needed here all the same.
# shellcheck disable=SC2086
apt-get download -qq $(printf '%s\n' $packages $wanted | sort -u)
for package in *.deb; do
    dpkg-deb -x "$package" "$root"
done
rm -rf "$root/packages"
touch "$done"
echo "$root"
