#!/usr/bin/env bash
# Unpacks, below target/, a Rust that comes with the source of its library, so that the library can be built for
# machines for which none comes built; an s390x linker, and what runs such programs. Prints where.
#
# Debian's rustc-web follows the browsers' needs, so it is new enough. Nothing is installed in the system: its
# programs would hide others of the same names.
set -euo pipefail
cd "$(dirname "$0")/.."

root=$PWD/target/cross
mark=$root/complete
if [ -e "$mark" ]; then
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
# Names its libraries by where they would be installed.
sed -i 's|/usr/s390x-linux-gnu/lib/||g' "$root/usr/s390x-linux-gnu/lib/libc.so"
touch "$mark"
echo "$root"
