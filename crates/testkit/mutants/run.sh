#!/usr/bin/env bash
# Removes one check of the ring crate at a time and requires that a test notices.
#
#   [SKIP_BASELINE=1] [SHARD=0/2] crates/testkit/mutants/run.sh [name-pattern]
#
# mutants.tsv: name, file, which occurrence of the line, the line without indentation, its replacement, test
# binary, test filter. A mutant that does not compile, or whose line is not there, is an error of the list.
# A name that begins with + is only a part: it goes together with the mutant after it.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../../.." && pwd)
pattern=${1:-.}
shard=${SHARD:-0/1}
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$root/target}/mutants-${shard%/*}
export CARGO_PROFILE_TEST_OPT_LEVEL=0 CARGO_PROFILE_DEV_OPT_LEVEL=0
export CARGO_PROFILE_TEST_DEBUG=0 CARGO_PROFILE_DEV_DEBUG=0
export VIRTIO_KIT_SCHEDULES=${VIRTIO_KIT_SCHEDULES:-60} RUST_BACKTRACE=0
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
mkdir "$copy/crates"
cp "$root/Cargo.lock" "$copy/"
cp -r "$root/crates/spec" "$root/crates/ring" "$root/crates/testkit" "$copy/crates/"
# Only the crates that take part.
sed -e 's|^members = .*|members = ["crates/*"]|' -e '/^default-members/d' "$root/Cargo.toml" >"$copy/Cargo.toml"
mkdir -p "$copy/pristine/crates"
cp -r "$copy/crates/ring" "$copy/pristine/crates/"
cd "$copy"

run() { timeout "${MUTANT_TIMEOUT:-120}" cargo test -q -p virtio-kit-ring --test "$1" -- "$2"; }

start=$SECONDS
if [[ -z ${SKIP_BASELINE:-} ]]; then
    for test in hostile_device hostile_driver properties litmus; do
        # Of the properties only those that mutants are tried on: the long ones take a minute without optimisation.
        filter=
        [[ $test == properties ]] && filter=queues_do
        run "$test" "$filter" >"$copy/log" 2>&1 || { cat "$copy/log"; echo "$test fails without any mutant"; exit 1; }
    done
    echo "no mutant: all pass, $((SECONDS - start)) s"
fi

caught=0 missed=() touched=() number=0
while IFS=$'\t' read -r name file nth line replacement test filter; do
    [[ $name == \#* || -z $name || ! ${name#+} =~ $pattern ]] && continue
    mine=$((number % ${shard#*/} == ${shard%/*}))
    [[ $name == +* ]] || number=$((number + 1))
    [[ $mine == 1 ]] || continue
    cp "$file" "$copy/before"
    NTH=$nth LINE=$line NEW=$replacement perl -i -pe '
        (my $text = $_) =~ s/^\s+|\s+$//g;
        if ($text eq $ENV{LINE} && ++$seen == $ENV{NTH}) { s/\Q$text\E/$ENV{NEW}/; }' "$file"
    if cmp -s "$file" "$copy/before"; then
        echo "$name: line not found in $file: $line"
        exit 1
    fi
    touched+=("$file")
    [[ $name == +* ]] && continue
    if ! cargo test -q -p virtio-kit-ring --test "$test" --no-run >"$copy/log" 2>&1; then
        cat "$copy/log"
        echo "$name: does not compile"
        exit 1
    fi
    if run "$test" "$filter" >"$copy/log" 2>&1; then
        echo "MISSED  $name ($test $filter)"
        missed+=("$name")
    else
        echo "caught  $name"
        caught=$((caught + 1))
    fi
    for file in "${touched[@]}"; do cp "$copy/pristine/$file" "$file"; done
    touched=()
done <"$here/mutants.tsv"
echo "$caught caught, ${#missed[@]} missed, $((SECONDS - start)) s"
[[ ${#missed[@]} == 0 ]]
