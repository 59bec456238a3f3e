#!/usr/bin/env bash
# `make check`: everything that can be said about the tree without running it. Each check runs even when an earlier
# one failed, so that one run shows everything; the status is that of the whole.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1

failed=()

# check TITLE COMMAND...: runs it quietly named, and remembers a failure.
check() {
    local title=$1 from=$SECONDS
    shift
    printf '==> %s\n' "$title"
    if "$@"; then
        printf '    ok, %d s\n' "$((SECONDS - from))"
    else
        failed+=("$title")
        printf '    FAILED, %d s\n' "$((SECONDS - from))"
    fi
}

# Every shell file that git knows of: by suffix, or by its first line.
shell_files() {
    git ls-files -z --cached --others --exclude-standard | while IFS= read -r -d '' file; do
        [[ -f $file ]] || continue
        case $file in
            *.sh | *.bash) printf '%s\0' "$file" ;;
            *.*) ;;
            *) head -c 64 "$file" | head -n 1 | tr -d '\0' | grep -Eq '^#!.*\b(bash|dash|sh)\b' && printf '%s\0' "$file" ;;
        esac
    done
}

shell() {
    command -v shellcheck >/dev/null || { echo "shellcheck is not installed: scripts/packages.sh install test"; return 1; }
    shell_files | xargs -0r shellcheck
}

# Sets `typos` to the program: the one in PATH, or the pinned wheel, which carries it, kept below the target directory.
typos_version=1.52.0
find_typos() {
    typos=$(command -v typos) && return
    local home
    home=$(realpath -m "${CARGO_TARGET_DIR:-target}")/tools/typos-$typos_version
    typos=$home/bin/typos
    [[ -x $typos ]] && return
    python3 -m pip install --quiet --no-deps --target "$home" "typos==$typos_version" && [[ -x $typos ]]
} 2>/dev/null

check "format" cargo fmt --all --check
check "clippy" cargo clippy --locked --workspace --all-targets --quiet -- -D warnings
check "tidy" cargo xtask tidy
check "shellcheck" shell

if find_typos; then
    check "typos" "$typos"
else
    echo "==> typos: SKIPPED, neither installed nor to be had through pip (Debian package python3-pip)"
fi

if ((${#failed[@]} > 0)); then
    printf '\ncheck: failed: %s\n' "$(IFS=,; echo "${failed[*]}")"
    exit 1
fi
printf '\ncheck: everything passed\n'
