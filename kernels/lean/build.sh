#!/usr/bin/env bash
# Builds banger's lean kernel: Debian's signed kernel source, `allnoconfig`, and fragment.config over it.
#
#   kernels/lean/build.sh [--config-only] OUT
#
# apt fetches the source package and verifies it against the archive's signature. OUT then holds `vmlinux`, `config`,
# `lib/modules/<release>` with the index of what is built in, and `build-info`; `banger kernel import OUT` takes it as it is.
# --config-only stops once the configuration is known to hold every line of the fragment.
#
# The same source, compiler and binutils give the same bytes, wherever and whenever: time, user, host and paths are fixed.
# `build-info` names all that went in. A build takes about 17 minutes on two busy cores and 2 GB below OUT/work, which may
# be removed afterwards.
#
#   SOURCE=linux-source-6.1            the package, with =VERSION to pin one
#   JOBS=N                             compilers side by side; default: one a processor
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
fragment=$here/fragment.config
source=${SOURCE:-linux-source-6.1}
package=${source%%=*}
jobs=${JOBS:-$(nproc)}

die() {
    printf 'build: %s\n' "$*" >&2
    exit 1
}

say() {
    printf '==> %s\n' "$*"
}

need_tools() {
    local program missing=()
    for program in apt-get dpkg-deb make gcc ld bc flex bison xz strip; do
        command -v "$program" >/dev/null || missing+=("$program")
    done
    # objtool, which the build makes and runs, is linked with libelf.
    [[ -e /usr/include/gelf.h ]] || missing+=(gelf.h)
    ((${#missing[@]} == 0)) ||
        die "missing: ${missing[*]}; apt-get install make gcc binutils bc flex bison libelf-dev xz-utils dpkg-dev"
}

# fetch: sets `deb`. apt does not fetch again what is there and has the right digest.
fetch() {
    local planned
    say "fetch $source"
    planned=$(apt-get download --print-uris "$source") || die "apt knows no $source; apt-get update?"
    deb=$work/$(awk '{ print $2; exit }' <<<"$planned")
    (cd "$work" && apt-get -qq -o APT::Get::AllowUnauthenticated=false -o APT::Sandbox::User=root download "$source")
    [[ -s $deb ]] || die "apt gave no $deb"
}

# unpack: sets `epoch`, the time of Debian's last change to the package.
unpack() {
    local member=./usr/src/$package.tar.xz listed
    listed=$(dpkg-deb --fsys-tarfile "$deb" | TZ=UTC tar --list --verbose --full-time "$member")
    epoch=$(date --utc --date="$(awk '{ print $4, $5; exit }' <<<"$listed")" +%s)
    if [[ $(cat "$work/unpacked" 2>/dev/null) == "${deb##*/}" ]]; then
        return
    fi
    say "unpack ${deb##*/}"
    rm -rf "$tree" "$build" "$work/unpacked"
    mkdir -p "$tree"
    dpkg-deb --fsys-tarfile "$deb" | tar --extract --to-stdout "$member" |
        tar --extract --xz --directory "$tree" --strip-components=1
    printf '%s\n' "${deb##*/}" >"$work/unpacked"
}

# kmake TARGET...: make, with nothing of this machine's in it but its compiler.
kmake() {
    local map="-ffile-prefix-map=$tree=. -ffile-prefix-map=$build=."
    env -i PATH="$PATH" LC_ALL=C TZ=UTC \
        ARCH=x86_64 SOURCE_DATE_EPOCH="$epoch" \
        KBUILD_BUILD_TIMESTAMP="$(LC_ALL=C date --utc --date="@$epoch")" \
        KBUILD_BUILD_USER=banger KBUILD_BUILD_HOST=banger KBUILD_BUILD_VERSION=1 \
        KCFLAGS="$map" KAFLAGS="$map" \
        nice -n 19 make --directory "$tree" O="$build" "$@"
}

configure() {
    say "configure"
    rm -rf "$build"
    mkdir -p "$build"
    (
        cd "$tree"
        env -i PATH="$PATH" LC_ALL=C ARCH=x86_64 nice -n 19 \
            scripts/kconfig/merge_config.sh -n -O "$build" "$fragment"
    ) >"$work/configure.log" 2>&1 || die "the configuration cannot be merged, see $work/configure.log"
    verify_config
}

# verify_config: every line of the fragment is in the configuration, or the build ends here.
verify_config() {
    local line option wrong=()
    while IFS= read -r line; do
        case $line in
            CONFIG_*=*)
                grep --quiet --fixed-strings --line-regexp -e "$line" "$build/.config" || wrong+=("$line")
                ;;
            '# CONFIG_'*' is not set')
                option=${line#'# '}
                option=${option%% *}
                ! grep --quiet -e "^$option=" "$build/.config" || wrong+=("$line")
                ;;
            '' | '# '* | '#') ;;
            *) die "fragment.config has a line of another shape: $line" ;;
        esac
    done <"$fragment"
    ((${#wrong[@]} == 0)) || {
        printf 'build: not as fragment.config says: %s\n' "${wrong[@]}" >&2
        exit 1
    }
    if grep --quiet '=m$' "$build/.config"; then
        die "something is a module: $(grep '=m$' "$build/.config" | tr '\n' ' ')"
    fi
    say "every line of the fragment holds, $(grep --count '=y$' "$build/.config") options are set"
}

# inputs: all that the result depends on.
inputs() {
    printf 'source %s %s\n' "${deb##*/}" "$(sha256sum "$deb" | cut -d ' ' -f 1)"
    printf 'fragment %s\n' "$(sha256sum "$fragment" | cut -d ' ' -f 1)"
    printf 'epoch %s\n' "$epoch"
    printf 'compiler %s\n' "$(gcc --version | head -n 1)"
    printf 'linker %s\n' "$(ld --version | head -n 1)"
}

# is_built: OUT is of these inputs. build-info is written last.
is_built() {
    [[ -s $out/vmlinux && -s $out/config && $(tail -n +2 "$out/build-info" 2>/dev/null) == "$(inputs)" ]]
}

compile() {
    local release
    rm -f "$out/build-info"
    say "compile with $jobs jobs"
    kmake --jobs "$jobs" vmlinux modules >"$work/build.log" 2>&1 ||
        die "the kernel does not build, see $work/build.log: $(grep -m 1 -i 'error' "$work/build.log" || true)"
    release=$(<"$build/include/config/kernel.release")
    rm -rf "${out:?}/lib"
    kmake INSTALL_MOD_PATH="$out" DEPMOD=true modules_install >>"$work/build.log" 2>&1 ||
        die "the modules' index cannot be installed, see $work/build.log"
    rm -f "$out/lib/modules/$release/build" "$out/lib/modules/$release/source"
    strip --strip-all -o "$out/vmlinux" "$build/vmlinux"
    cp "$build/.config" "$out/config"
    {
        printf 'release %s\n' "$release"
        inputs
    } >"$out/build-info"
    say "built $release"
    (cd "$out" && sha256sum vmlinux config)
}

config_only=no
if [[ ${1:-} == --config-only ]]; then
    config_only=yes
    shift
fi
(($# == 1)) || die "usage: build.sh [--config-only] OUT"
mkdir -p "$1"
out=$(cd "$1" && pwd)
work=$out/work
tree=$work/linux
build=$work/build
mkdir -p "$work"

need_tools
fetch
unpack
if [[ $config_only == no ]] && is_built; then
    say "$(head -n 1 "$out/build-info") is built already, of the same inputs"
    exit
fi
configure
[[ $config_only == yes ]] || compile
