#!/usr/bin/env bash
# `make test` and `make soak`: builds what the tests drive, prepares the cache of guest parts, and runs every test.
# The runner is cargo-nextest where it is installed, else `cargo test`; its closing lines are the last ones printed.
#
# What the tests find in their environment:
#   BANGER_TEST_PREFIX       an installed tree of the programs under test
#   BANGER_TEST_HOME         a banger home with the default kernel and image: copy or link from it, never write to it
#   BANGER_TEST_KERNEL_DEB   Debian's cloud kernel package
#   BANGER_TEST_FIRECRACKER  a directory with firecracker and jailer; as root only
#   BANGER_SOAK              set by `make soak` to its N: run the long lists instead of a sample, and what is ignored else
#
# Arguments go to the runner: `scripts/test.sh -p daemon exec`.
set -euo pipefail
cd "$(dirname "$0")/.."

if ! scripts/packages.sh missing run build test >/dev/null 2>&1; then
    scripts/packages.sh install run build test
fi

profile=${TEST_PROFILE:-dev}
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
export BANGER_TEST_PREFIX=$target/dist-test
cargo xtask dist --profile "$profile" --prefix "$BANGER_TEST_PREFIX"

parts=$(scripts/test-cache.sh "$BANGER_TEST_PREFIX")
{ read -r BANGER_TEST_KERNEL_DEB && read -r BANGER_TEST_HOME; } <<<"$parts"
export BANGER_TEST_KERNEL_DEB BANGER_TEST_HOME
# Only what runs as root needs it, and as another user those tests do nothing.
if ((EUID == 0)); then
    BANGER_TEST_FIRECRACKER=$(scripts/test-firecracker.sh)
    export BANGER_TEST_FIRECRACKER
fi

if (($# == 0)); then set -- --workspace; fi
is_soak=${BANGER_SOAK:-0}
if cargo nextest --version >/dev/null 2>&1; then
    if [[ $is_soak != 0 ]]; then set -- --profile soak --run-ignored all "$@"; fi
    exec cargo nextest run --locked --no-fail-fast "$@"
fi
if [[ $is_soak != 0 ]]; then set -- "$@" -- --include-ignored; fi
exec cargo test --locked --no-fail-fast "$@"
