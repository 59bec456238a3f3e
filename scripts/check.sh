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
            *) head -c 64 "$file" | head -n 1 | tr -d '\0' | grep -Eq '^#!.*\b(ba|da)?sh\b' && printf '%s\0' "$file" ;;
        esac
    done
}

shell() {
    command -v shellcheck >/dev/null || { echo "shellcheck is not installed: scripts/packages.sh install test"; return 1; }
    shell_files | xargs -0r shellcheck
}

check "format" cargo fmt --all --check
check "clippy" cargo clippy --locked --workspace --all-targets --quiet -- -D warnings
check "tidy" cargo xtask tidy
check "shellcheck" shell

# These two are used where they are installed. `.ci/run` installs typos; cargo-deny takes minutes to compile.
if command -v typos >/dev/null; then
    check "typos" typos
else
    echo "==> typos: SKIPPED, not installed (pip install typos)"
fi
if command -v cargo-deny >/dev/null; then
    check "cargo-deny" cargo deny --offline check bans licenses sources
else
    echo "==> cargo-deny: SKIPPED, not installed (cargo install cargo-deny)"
fi

if ((${#failed[@]} > 0)); then
    printf '\ncheck: failed: %s\n' "$(IFS=,; echo "${failed[*]}")"
    exit 1
fi
printf '\ncheck: everything passed\n'
