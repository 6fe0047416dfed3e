#!/bin/sh
# Installs qemu-system-x86_64, beside a qemu-storage-daemon of the same version.
#
# Debian 12's own qemu is too old, and installing it removes a newer qemu-utils. So there both packages come
# from bookworm-backports, by a private list of sources that leaves the system's alone. Anything newer has a
# good one. Does nothing if both are there and of one version.
set -eu

say() { echo "install-qemu: $*" >&2; }

version() {
    command -v "$1" >/dev/null 2>&1 || return 0
    "$1" --version 2>/dev/null | sed -n '1s/.*version \([0-9][0-9.]*\).*/\1/p'
}

good() {
    system=$(version qemu-system-x86_64)
    storage=$(version qemu-storage-daemon)
    [ -n "$system" ] && [ "$system" = "$storage" ] && [ "${system%%.*}" -ge 8 ]
}

if good; then exit 0; fi

command -v apt-get >/dev/null 2>&1 || {
    say "no apt-get here: install qemu-system-x86_64 and qemu-storage-daemon, version 8.0 or newer, by hand"
    exit 1
}

root=
if [ "$(id -u)" -ne 0 ]; then root=sudo; fi

private=$(mktemp -d)
trap '$root rm -rf "$private"' EXIT
# apt drops its privileges while it downloads.
chmod 755 "$private"

# Runs a command quietly; shows what it said if it fails.
quiet() {
    if ! "$@" >"$private/log" 2>&1; then
        cat "$private/log" >&2
        say "failed: $*"
        return 1
    fi
}

# Where the system itself gets a suite from, in either format of sources.
mirror() {
    for file in /etc/apt/sources.list.d/*.sources; do
        [ -e "$file" ] || continue
        awk -v suite="$1" '
            tolower($1) == "uris:" { uri = $2 }
            tolower($1) == "suites:" { for (i = 2; i <= NF; i++) if ($i == suite) hit = 1 }
            NF == 0 { if (hit && uri) { print uri; exit } hit = 0; uri = "" }
            END { if (hit && uri) print uri }' "$file"
    done
    for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list; do
        [ -e "$file" ] || continue
        sed -n 's/^deb \(\[[^]]*\] \)\{0,1\}\([^ ]*\) '"$1"' .*/\2/p' "$file"
    done
}

install() {
    quiet $root env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 \
        "$@" install -y --no-install-recommends qemu-system-x86 qemu-utils
}

. /etc/os-release
if [ "${VERSION_CODENAME:-}" = bookworm ]; then
    uri=$(mirror bookworm | head -n 1)
    [ -n "$uri" ] || {
        say "the sources of apt name no mirror of bookworm"
        exit 1
    }
    mkdir -p "$private/parts" "$private/lists/partial"
    key=/usr/share/keyrings/debian-archive-keyring.gpg
    for suite in bookworm bookworm-backports; do
        echo "deb [signed-by=$key] $uri $suite main"
    done >"$private/parts/qemu.list"
    set -- -o Dir::Etc::sourcelist=/dev/null -o Dir::Etc::sourceparts="$private/parts" \
        -o Dir::State::lists="$private/lists" -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache=
    quiet $root apt-get -o Acquire::Retries=3 "$@" update
    install "$@" -t bookworm-backports
else
    quiet $root apt-get -o Acquire::Retries=3 update
    candidate=$(apt-cache policy qemu-system-x86 | sed -n 's/^ *Candidate: \([0-9]*:\)\{0,1\}\([0-9]*\).*/\2/p')
    [ -n "$candidate" ] && [ "$candidate" -ge 8 ] || {
        say "this system offers qemu ${candidate:-not at all}; 8.0 is needed"
        exit 1
    }
    install
fi

good || {
    say "installed, but qemu-system-x86_64 is '$(version qemu-system-x86_64)' and qemu-storage-daemon '$(version qemu-storage-daemon)'"
    exit 1
}
say "qemu-system-x86_64 $(version qemu-system-x86_64)"
