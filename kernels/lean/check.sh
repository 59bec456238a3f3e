#!/bin/sh
# Tries every feature of features.txt in a guest, and says which are not there.
#
#   check.sh [features.txt]            as root in a guest; the list is looked for beside this file
#
#   banger cp kernels/lean/. VM:/tmp/lean && banger exec VM -- sh /tmp/lean/check.sh
#
# A line per feature: ok, FAILED with the command, or skipped where a program that the command needs is not in the image (nft,
# unshare, tc). The status is 1 when one failed. What is made for a trial is made in namespaces of its own, or removed.
set -eu

list=${1:-$(dirname "$0")/features.txt}

# A trial that must not run has this status, as in automake.
SKIP=77

needs() {
    command -v "$1" >/dev/null 2>&1 || exit "$SKIP"
}

# option NAME: the kernel says that CONFIG_NAME is built in.
option() {
    needs zcat
    zcat /proc/config.gz | grep -q "^CONFIG_$1=y\$"
}

# filesystem NAME: the kernel knows it, without loading anything.
filesystem() {
    grep -q "[[:space:]]$1\$" /proc/filesystems
}

# controller NAME: one of cgroup v2.
controller() {
    grep -qw "$1" /sys/fs/cgroup/cgroup.controllers
}

# opens FILE: a device is there, and something answers behind it.
opens() {
    test -c "$1" && (exec 3<>"$1")
}

# builtin_module NAME: modprobe finds it, and that there is nothing to load.
builtin_module() {
    needs modprobe
    modprobe "$1" && ! grep -q "^$1 " /proc/modules
}

no_modules() {
    test -e /proc/modules && ! grep -q . /proc/modules
}

# apart COMMAND...: in a network of its own, which takes along whatever is made in it.
apart() {
    needs unshare
    unshare --net -- "$@"
}

# link KIND ARGUMENT...: such a network device can be made.
link() {
    needs ip
    kind=$1
    shift
    apart ip link add name trial type "$kind" "$@"
}

# link_on_dummy KIND ARGUMENT...: one that sits on another device.
link_on_dummy() {
    needs ip
    # shellcheck disable=SC2016 # for the inner shell
    apart sh -c 'ip link add name below type dummy && ip link add link below name trial type "$@"' sh "$@"
}

# queue KIND ARGUMENT...: such a queue can be put on a device.
queue() {
    needs tc
    apart tc qdisc add dev lo root "$@"
}

# ruleset TEXT: nftables takes it.
ruleset() {
    needs nft
    apart nft "$1"
}

# table_match NAME: iptables' legacy interface has the match.
table_match() {
    grep -qx "$1" /proc/net/ip_tables_matches
}

# mounts_overlay: what is written above hides what lies below.
mounts_overlay() {
    needs unshare
    # shellcheck disable=SC2016 # for the inner shell
    unshare --mount -- sh -eu -c '
        mount -t tmpfs trial /mnt
        mkdir /mnt/lower /mnt/upper /mnt/work /mnt/merged
        echo below >/mnt/lower/file
        mount -t overlay -o lowerdir=/mnt/lower,upperdir=/mnt/upper,workdir=/mnt/work trial /mnt/merged
        echo above >/mnt/merged/file
        test "$(cat /mnt/lower/file)$(cat /mnt/upper/file)" = belowabove'
}

# The same by somebody who is root in a user namespace only, as rootless containers do it.
mounts_overlay_as_user() {
    needs unshare
    unshare --user --map-root-user --mount -- sh -eu -c '
        mount -t tmpfs trial /mnt
        mkdir /mnt/lower /mnt/upper /mnt/work /mnt/merged
        mount -t overlay -o userxattr,lowerdir=/mnt/lower,upperdir=/mnt/upper,workdir=/mnt/work trial /mnt/merged
        echo above >/mnt/merged/file && test -e /mnt/upper/file'
}

mounts_tracefs() {
    needs unshare
    unshare --mount -- sh -c 'mount -t tracefs trial /mnt && test -r /mnt/kprobe_events'
}

# security_module NAME: it is one of those that are in force.
security_module() {
    needs unshare
    # shellcheck disable=SC2016 # for the inner shell
    unshare --mount -- sh -c 'mount -t securityfs trial /mnt && grep -qw "$1" /mnt/lsm' sh "$1"
}

ok=0 failed=0 skipped=0
while read -r feature command; do
    case $feature in
        '' | '#'*) continue ;;
    esac
    status=0
    said=$( (eval "$command") </dev/null 2>&1) || status=$?
    case $status in
        0)
            ok=$((ok + 1))
            echo "ok       $feature"
            ;;
        "$SKIP")
            skipped=$((skipped + 1))
            echo "skipped  $feature: $command"
            ;;
        *)
            failed=$((failed + 1))
            echo "FAILED   $feature: $command${said:+ ($said)}"
            ;;
    esac
done <"$list"
echo "$(uname -r): $ok ok, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]
