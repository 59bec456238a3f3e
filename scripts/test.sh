#!/usr/bin/env bash
# `make test` and `make soak`: builds what the tests drive, prepares the cache of guest parts, and runs every test.
# The runner is cargo-nextest where it is installed, else `cargo test`; its closing lines are the last ones printed.
#
# What the tests find in their environment:
#   BANGER_TEST_PREFIX   an installed tree of the programs under test
#   BANGER_TEST_HOME     a banger home with kernel `default` and image `debian-bookworm`: copy from it, never write
#   BANGER_SOAK          set by `make soak`: run the long lists instead of a sample
set -euo pipefail
cd "$(dirname "$0")/.."

if ! scripts/packages.sh missing run build test >/dev/null 2>&1; then
    scripts/packages.sh install run build test
fi

profile=${TEST_PROFILE:-dev}
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
export BANGER_TEST_PREFIX=$target/dist-test
cargo xtask dist --profile "$profile" --prefix "$BANGER_TEST_PREFIX"

BANGER_TEST_HOME=$(scripts/test-cache.sh "$BANGER_TEST_PREFIX" | tee /dev/stderr | tail -n 1)
export BANGER_TEST_HOME

if cargo nextest --version >/dev/null 2>&1; then
    exec cargo nextest run --locked --workspace --no-fail-fast "$@"
fi
exec cargo test --locked --workspace --no-fail-fast "$@"
