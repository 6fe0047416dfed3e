#!/usr/bin/env bash
# Unpacks what a small Linux guest is made of into target/guest: a Debian kernel with its modules, and busybox.
# Nothing is installed. Does nothing if it is there.
set -euo pipefail
cd "$(dirname "$0")/.."

to=target/guest
[ -e "$to/complete" ] && exit 0

command -v apt-get >/dev/null || {
    echo "install-guest: no apt-get here: put vmlinuz, lib/modules and bin/busybox into $to by hand" >&2
    exit 1
}
for tool in mke2fs fsck.ext4 debugfs; do
    command -v "$tool" >/dev/null || [ -x "/sbin/$tool" ] || {
        sudo=""
        [ "$(id -u)" = 0 ] || sudo="sudo"
        $sudo apt-get install -y -qq --no-install-recommends e2fsprogs
    }
done

rm -rf "$to"
mkdir -p "$to/packages"
# The package that everybody means depends on the one with the files.
kernel=$(apt-cache show linux-image-cloud-amd64 | sed -n 's/^Depends: \(linux-image-[^ ]*\).*/\1/p' | head -1)
(cd "$to/packages" && apt-get download -qq "$kernel" busybox-static)
for package in "$to"/packages/*.deb; do
    dpkg -x "$package" "$to"
done
mv "$to"/boot/vmlinuz-* "$to/vmlinuz"
rm -rf "$to/packages" "$to/usr" "$to/boot"
touch "$to/complete"
