#!/usr/bin/env bash
# Makes sure that a banger home holds what a VM boots from: the default kernel and the default image. Idempotent.
#
#   scripts/guest-parts.sh BANGER kernel [FILE]   import the default kernel, unless it is there: from FILE (a .deb), or
#                                                 by banger itself from the host's Debian archive
#   scripts/guest-parts.sh BANGER image           build the minimal variant of the default image, unless it is there
#
# BANGER is the program to use; BANGER_HOME and the XDG variables choose the home, as always.
# This is the one place among the repository's scripts that spells these product commands.
set -euo pipefail

kernel=linux-image-cloud-amd64
image=debian-bookworm

(($# >= 2)) || { echo "usage: guest-parts.sh BANGER kernel [FILE] | image" >&2; exit 2; }
banger=$1

# is_there NOUN NAME: whether the home holds it. Status 0 is yes; any failure means making it, which reports properly.
is_there() {
    "$banger" "$1" show "$2" --format name >/dev/null 2>&1 || return
    echo "already there: $1 $2"
}

case $2 in
    kernel)
        source=(--debian "$kernel")
        (($# == 2)) || source=("$3")
        is_there kernel "$kernel" || "$banger" kernel import "${source[@]}" --name "$kernel"
        ;;
    image) is_there image "$image" || "$banger" image build "$image" --variant minimal ;;
    *)
        echo "guest-parts: no such part: $2 (kernel, image)" >&2
        exit 2
        ;;
esac
