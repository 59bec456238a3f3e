#!/usr/bin/env bash
# The Debian packages banger needs, in one list of six groups, and the way to install those that are missing.
#
#   scripts/packages.sh list    GROUP...   print the names
#   scripts/packages.sh missing GROUP...   print the names that are not installed; status 1 if there are any
#   scripts/packages.sh install GROUP...   install what is missing: as root, or through sudo
#   scripts/packages.sh update             fetch apt's index: as root, or through sudo
#
# Groups: run (what banger starts), build (a compiler for it), test (what the tests and `make check` need besides),
# images (real registries and tools that make images, which tests are skipped without: Debian's registry is a service that runs
# once it is installed), testhost (what the disposable test host of the end-to-end tests needs besides), coverage (what
# `make e2e COVERAGE=1` needs besides).
# Without root and without sudo, `install` prints the exact command for somebody who has them, and fails.
# On a host that is not Debian's kin it names the programs that are missing instead of packages.
set -euo pipefail

run=(qemu-system-x86 mmdebstrap e2fsprogs kmod passt uidmap git ca-certificates)
build=(gcc libc6-dev binutils make git ca-certificates)
test=(openssh-client openssl shellcheck slirp4netns socat tmux)
images=(docker-registry skopeo umoci openssl attr rpm busybox-static buildah)
testhost=(openssh-client python3 python3-pip)
coverage=(llvm-19)

# One program of each package, for hosts without dpkg.
declare -A program=(
    [qemu-system-x86]=qemu-system-x86_64 [mmdebstrap]=mmdebstrap [e2fsprogs]=mkfs.ext4 [kmod]=depmod [passt]=passt
    [uidmap]=newuidmap [git]=git [gcc]=gcc [binutils]=strip [make]=make [openssh-client]=ssh
    [shellcheck]=shellcheck [slirp4netns]=slirp4netns [socat]=socat [tmux]=tmux [python3]=python3 [python3-pip]=pip3
    [llvm-19]=llvm-cov-19 [docker-registry]=docker-registry [skopeo]=skopeo [umoci]=umoci [openssl]=openssl [attr]=setfattr [rpm]=rpmbuild
    [busybox-static]=busybox [buildah]=buildah
)

die() {
    printf 'packages: %s\n' "$*" >&2
    exit 1
}

# packages_of GROUP...: the names of these groups, each once.
packages_of() {
    local group
    for group in "$@"; do
        case $group in
            run) printf '%s\n' "${run[@]}" ;;
            build) printf '%s\n' "${build[@]}" ;;
            test) printf '%s\n' "${test[@]}" ;;
            images) printf '%s\n' "${images[@]}" ;;
            testhost) printf '%s\n' "${testhost[@]}" ;;
            coverage) printf '%s\n' "${coverage[@]}" ;;
            *) die "no such group: $group (run, build, test, images, testhost, coverage)" ;;
        esac
    done | sort -u
}

# missing_of GROUP...: the names of these groups that are not installed.
missing_of() {
    local name
    packages_of "$@" | while read -r name; do
        [[ $(dpkg-query --show --showformat='${db:Status-Status}' "$name" 2>/dev/null) == installed ]] || echo "$name"
    done
}

# missing_programs_of GROUP...: the same for a host without dpkg, as programs. sbin is where mkfs.ext4 and depmod are.
missing_programs_of() {
    local name
    packages_of "$@" | while read -r name; do
        [[ -n ${program[$name]:-} ]] || continue
        PATH="$PATH:/usr/sbin:/sbin" command -v "${program[$name]}" >/dev/null || echo "${program[$name]}"
    done
}

# as_root COMMAND...: runs it as root; the caller has made sure that this is possible.
as_root() {
    if ((EUID == 0)); then "$@"; else sudo "$@"; fi
}

may_become_root() {
    ((EUID == 0)) && return
    command -v sudo >/dev/null || return
    sudo -n true 2>/dev/null && return
    # sudo may ask for a password only where somebody can answer.
    [[ -t 0 && -t 2 ]]
}

install_missing() {
    local missing names
    if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
        missing=$(missing_programs_of "$@")
        [[ -z $missing ]] || die "this host has no apt-get; install what provides these programs: ${missing//$'\n'/ }"
        return
    fi
    missing=$(missing_of "$@")
    [[ -n $missing ]] || return 0
    mapfile -t names <<<"$missing"
    local -a apt=(apt-get install -y --no-install-recommends "${names[@]}")
    if ! may_become_root; then
        {
            echo "packages: these Debian packages are missing, and installing them needs root:"
            echo
            echo "    sudo ${apt[*]}"
            echo
        } >&2
        exit 1
    fi
    echo "packages: installing ${names[*]}"
    # The index is fetched only when the one at hand does not know a name, or knows files that are gone.
    if ! apt-cache show "${names[@]}" >/dev/null 2>&1 ||
        ! as_root env DEBIAN_FRONTEND=noninteractive "${apt[@]}"; then
        as_root apt-get update
        as_root env DEBIAN_FRONTEND=noninteractive "${apt[@]}"
    fi
}

(($# >= 2)) || [[ ${1:-} == update ]] || die "usage: packages.sh list|missing|install GROUP... | update"
command=$1
shift
case $command in
    list) packages_of "$@" ;;
    missing)
        found=$(missing_of "$@")
        [[ -z $found ]] || { printf '%s\n' "$found"; exit 1; }
        ;;
    install) install_missing "$@" ;;
    update)
        may_become_root || die "fetching apt's index needs root: sudo apt-get update"
        as_root apt-get update
        ;;
    *) die "no such command: $command (list, missing, install, update)" ;;
esac
