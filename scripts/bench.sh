#!/usr/bin/env bash
# `make bench`: builds the release programs, and the tests' debug ones for rows whose guests are simulated; prepares the
# tests' guest parts, and measures. Arguments go to `cargo xtask bench`: `scripts/bench.sh --only boot --write`.
set -euo pipefail
cd "$(dirname "$0")/.."

target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
cargo xtask dist
cargo xtask dist --profile dev --prefix "$target/dist-test"
parts=$(scripts/test-cache.sh "$target/dist")
{ read -r _ && read -r BANGER_TEST_HOME; } <<<"$parts"
export BANGER_TEST_HOME BANGER_BENCH_PREFIX=$target/dist BANGER_BENCH_SIM_PREFIX=$target/dist-test
cargo xtask bench "$@"
