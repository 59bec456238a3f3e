#!/usr/bin/env bash
# Makes what tests that boot real guests need and cannot make for themselves each time: the kernel and the test image.
#
#   scripts/test-cache.sh PREFIX    PREFIX is an installed tree (`cargo xtask dist`)
#
# They are kept outside the tree, in ${BANGER_TEST_CACHE:-$XDG_CACHE_HOME/banger-test}:
#
#   home-<key>/     a banger home (BANGER_HOME) that holds kernel `default` and image `debian-bookworm`, with no daemon
#                   running; a test copies or links from it and never writes to it
#   home            a symbolic link to the current one
#
# The key is a hash of what the home's content depends on: the image recipes and this repository's scripts for it.
# The last line printed is the path of the home.
set -euo pipefail
cd "$(dirname "$0")/.."

(($# == 1)) || { echo "usage: test-cache.sh PREFIX" >&2; exit 2; }
banger=$1/bin/banger
cache=${BANGER_TEST_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/banger-test}

key=$(find images crates/daemon/src/store scripts/guest-parts.sh -type f -print0 2>/dev/null | LC_ALL=C sort -z |
    xargs -0 sha256sum | sha256sum | cut -c1-12)
home=$cache/home-$key

if [[ ! -e $home/complete ]]; then
    mkdir -p "$cache"
    # Two test runs may start at once: one makes the home, the other waits and finds it.
    exec 9>"$cache/lock"
    flock 9
    if [[ ! -e $home/complete ]]; then
        rm -rf "$home" "$cache"/home-*
        mkdir "$home"
        export BANGER_HOME=$home
        # The daemon must not inherit the lock, or it would hold it until it ends.
        scripts/guest-parts.sh "$banger" kernel 9>&-
        scripts/guest-parts.sh "$banger" image 9>&-
        "$banger" daemon stop 9>&-
        touch "$home/complete"
    fi
fi
ln -sfn "home-$key" "$cache/home"
echo "$home"
