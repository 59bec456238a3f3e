#!/usr/bin/env bash
# `make quickstart`: from a bare Debian machine with a Rust toolchain to a command that ran in a real VM.
# Every step is skipped, and says so, when what it makes is already true; the seconds of each are printed at the end
# and kept in target/quickstart-times.txt.
set -euo pipefail
cd "$(dirname "$0")/.."

target=${CARGO_TARGET_DIR:-target}
banger=$target/dist/bin/banger
vm=quickstart
times=$target/quickstart-times.txt
rows=()

now() { date +%s.%N; }
since() { awk -v a="$1" -v b="$(now)" 'BEGIN { printf "%.1f", b - a }'; }
started=$(now)

# step TITLE COMMAND...: runs it, and remembers how long it took. A failure ends the script with its status.
step() {
    local title=$1 from status=0 seconds
    shift
    printf '\n==> %s\n' "$title"
    from=$(now)
    "$@" || status=$?
    seconds=$(since "$from")
    rows+=("$(printf '%9s  %s' "$seconds" "$title")")
    if ((status != 0)); then
        printf '\nquickstart: "%s" failed with status %d after %s s\n' "$title" "$status" "$seconds" >&2
        exit "$status"
    fi
}

packages() {
    if scripts/packages.sh missing run build >/dev/null 2>&1; then
        echo "already there: every Debian package of the groups run and build"
        return
    fi
    scripts/packages.sh install run build
}

programs() {
    command -v cargo >/dev/null || { echo "quickstart: cargo is not in PATH; install a Rust toolchain (1.95 or newer)" >&2; return 1; }
    cargo xtask dist
}

first_vm() {
    # The VM stays after the command, so that a shell can be opened in it; a leftover of an earlier run is replaced.
    if "$banger" vm show "$vm" >/dev/null 2>&1; then
        echo "replacing VM $vm of an earlier run"
        "$banger" vm delete "$vm"
    fi
    "$banger" vm run --name "$vm" . -- sh -c 'uname -r; cat /etc/os-release; cd /root/repo && ls && wc -l Cargo.toml'
}

step "Debian packages" packages
step "release binaries" programs
step "kernel" scripts/guest-parts.sh "$banger" kernel
step "image debian-bookworm, minimal" scripts/guest-parts.sh "$banger" image
step "vm run" first_vm

{
    printf '%9s  %s\n' seconds step
    printf '%s\n' "${rows[@]}"
    printf '%9s  %s\n' "$(since "$started")" total
} >"$times"
printf '\n'
cat "$times"
printf '\nA shell in this VM:   %s vm exec -it %s -- bash\n' "$banger" "$vm"
printf 'Delete it:            %s vm delete %s\n' "$banger" "$vm"
