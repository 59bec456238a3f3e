#!/usr/bin/env bash
# Makes sure that a banger home holds what a VM boots from: the kernel and the default image. Idempotent.
#
#   scripts/guest-parts.sh BANGER kernel    import Debian's cloud kernel as `default`, unless it is there
#   scripts/guest-parts.sh BANGER image     build the minimal variant of the default image, unless it is there
#
# BANGER is the program to use; BANGER_HOME and the XDG variables choose the home, as always.
# This is the one place of the repository's scripts that spells these product commands.
set -euo pipefail

kernel_name=default
kernel_package=linux-image-cloud-amd64
image_name=debian-bookworm

(($# == 2)) || { echo "usage: guest-parts.sh BANGER kernel|image" >&2; exit 2; }
banger=$1

# kernel_deb DIR: downloads the versioned package that the meta package depends on, and prints the file's path.
# apt verifies it against Debian's signed index; that index must exist, hence the update when it does not.
kernel_deb() {
    local versioned
    versioned() { apt-cache depends "$kernel_package" 2>/dev/null | sed -n 's/^ *Depends: \(linux-image-[0-9].*\)$/\1/p' | head -n 1; }
    versioned=$(versioned)
    if [[ -z $versioned ]]; then
        if ((EUID == 0)); then apt-get update >&2; else sudo apt-get update >&2; fi
        versioned=$(versioned)
    fi
    [[ -n $versioned ]] || { echo "guest-parts: apt knows no package $kernel_package" >&2; return 1; }
    # The sandbox user of apt cannot write into a private directory; the download is verified all the same.
    (cd "$1" && apt-get -o APT::Sandbox::User=root download "$versioned" >&2)
    printf '%s\n' "$1/$versioned"_*.deb
}

case $2 in
    kernel)
        if "$banger" kernel show "$kernel_name" >/dev/null 2>&1; then
            echo "already there: kernel $kernel_name"
            exit 0
        fi
        scratch=$(mktemp -d)
        trap 'rm -rf "$scratch"' EXIT
        deb=$(kernel_deb "$scratch")
        "$banger" kernel import "$deb" --name "$kernel_name"
        ;;
    image)
        if "$banger" image show "$image_name" >/dev/null 2>&1; then
            echo "already there: image $image_name"
            exit 0
        fi
        "$banger" image build --variant minimal "$image_name"
        ;;
    *)
        echo "guest-parts: no such part: $2 (kernel, image)" >&2
        exit 2
        ;;
esac
