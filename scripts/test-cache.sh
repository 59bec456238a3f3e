#!/usr/bin/env bash
# Makes what tests that boot real guests need and cannot make each time: the kernel and the test images.
#
#   scripts/test-cache.sh PREFIX    PREFIX is an installed tree (`cargo xtask dist`)
#
# They are kept outside the tree, in ${BANGER_TEST_CACHE:-$XDG_CACHE_HOME/banger-test}:
#
#   kernel/*.deb    Debian's cloud kernel package, as apt downloaded and verified it
#   home-<key>/     a banger home (BANGER_HOME) that holds the default kernel and the default image, with no daemon
#                   running; a test copies or links from it and never writes to it
#
# The key is a hash of what the home's content depends on: recipes, the code that makes images and kernels, the
# database's migrations, and the script that asks for them. Homes of other keys are deleted when they have not been
# used for two days.
# Prints two lines at the end: the kernel package and the home.
set -euo pipefail
cd "$(dirname "$0")/.."

(($# == 1)) || { echo "usage: test-cache.sh PREFIX" >&2; exit 2; }
banger=$1/bin/banger
cache=${BANGER_TEST_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/banger-test}
mkdir -p "$cache"

# Two test runs may start at once: one makes the parts, the other waits and finds them. The descriptor is not given to
# the commands below, or a daemon that they start would hold the lock until it ends.
exec 9>"$cache/lock"
flock 9

# The versioned package that the meta package stands for; nothing when apt has no index.
versioned_kernel() {
    apt-cache depends linux-image-cloud-amd64 2>/dev/null | sed -n 's/^ *Depends: \(linux-image-[0-9].*\)$/\1/p' | head -n 1
}

kernel_deb() {
    compgen -G "$cache/kernel/*.deb" | head -n 1
}

if [[ -z $(kernel_deb) ]]; then
    package=$(versioned_kernel)
    if [[ -z $package ]]; then
        scripts/packages.sh update 9>&- >&2
        package=$(versioned_kernel)
    fi
    [[ -n $package ]] || { echo "test-cache: apt knows no kernel package" >&2; exit 1; }
    rm -rf "$cache/kernel.part"
    mkdir -p "$cache/kernel.part"
    # apt's own sandbox user may not write here; what it downloads is verified all the same.
    (cd "$cache/kernel.part" && apt-get -o APT::Sandbox::User=root download "$package" >&2 9>&-)
    rm -rf "$cache/kernel"
    mv "$cache/kernel.part" "$cache/kernel"
fi

key=$(git ls-files -z --cached --others --exclude-standard -- images tests/images crates/daemon/src/image crates/daemon/src/store/migrations \
    scripts/guest-parts.sh | xargs -0 sha256sum | sha256sum | cut -c1-12)
home=$cache/home-$key
if [[ ! -e $home/complete ]]; then
    rm -rf "$home"
    # Another checkout may be testing with its own home: only those that nobody made or asked for in two days go.
    find "$cache" -maxdepth 1 -name 'home-*' -mtime +1 -exec rm -rf {} +
    mkdir "$home"
    export BANGER_HOME=$home
    scripts/guest-parts.sh "$banger" kernel "$(kernel_deb)" 9>&- >&2
    scripts/guest-parts.sh "$banger" image 9>&- >&2
    "$banger" image build "$PWD/tests/images/no-init" 9>&- >&2
    "$banger" daemon stop 9>&- >&2
    touch "$home/complete"
fi
touch "$home"
printf '%s\n%s\n' "$(kernel_deb)" "$home"
