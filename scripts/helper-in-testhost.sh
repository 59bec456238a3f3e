#!/usr/bin/env bash
# Runs every test of the helper inside the disposable test host: with systemd, KVM, and the real Firecracker under the real
# jailer booting a guest. `cargo xtask testhost` makes and forgets the host.
#
#   scripts/helper-in-testhost.sh [TEST…]    TEST is part of a test's name
#
# The test program finds what it needs under the paths it was built with, so they are made the same inside.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
name=${TESTHOST_NAME:-helper}
xtask=${TESTHOST_XTASK:-cargo xtask}

cargo build --quiet --locked -p helper
test_program=$(cargo test --locked -p helper --test it --no-run --message-format json |
    sed -n 's/.*"executable":"\([^"]*\/it-[^"]*\)".*/\1/p' | tail -n 1)
firecracker=$(scripts/test-firecracker.sh)

tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
put() { install -D -m "$1" "$2" "$tree$3"; }
put 755 "$test_program" /opt/helper/it
put 755 "$target/debug/banger-helper" /usr/local/libexec/banger/banger-helper
put 755 "$target/debug/banger-helper" "$target/debug/banger-helper"
for program in firecracker jailer; do put 755 "$firecracker/$program" "/opt/helper/$program"; done
mkdir -p "$tree$target/tmp"
cc -static -O1 -Wall -Werror -o "$tree/opt/helper/probe" crates/helper/tests/it/probe.c
for unit in systemd/banger-helper.*; do put 644 "$unit" "$root/$unit"; done
mkdir -p "$tree$root/crates/helper"

$xtask testhost list | grep -q "^${name}[[:space:]]" || $xtask testhost up --name "$name" --memory 2048
$xtask testhost sync --name "$name" --tree "$tree" --to /
$xtask testhost ssh --name "$name" -- "cd /opt/helper && BANGER_TEST_FIRECRACKER=/opt/helper BANGER_TEST_PROBE=/opt/helper/probe \
    BANGER_TEST_TAKEN_OVER=/srv/parts/home ./it --test-threads 2 $*"
