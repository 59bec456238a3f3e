#!/bin/sh
# Takes out of the image what must differ between VMs and what opens a door:
# machine-id, SSH host keys, passwords, and the name of the machine that built it.
# banger's agent writes identity into the VM before its init starts.
# Usage (mmdebstrap --customize-hook): identity.sh ROOT
set -eu

root=$1

# An existing empty file (not a missing one) keeps systemd from running first-boot presets
# when the agent has not written an id; see machine-id(5).
: >"$root/etc/machine-id"
rm -f "$root/var/lib/dbus/machine-id"
rm -f "$root"/etc/ssh/ssh_host_*_key "$root"/etc/ssh/ssh_host_*_key.pub
rm -f "$root/var/lib/systemd/random-seed" "$root/var/lib/systemd/credential.secret"

# root logs in by key only; a locked password refuses the console and `su` too.
chroot "$root" passwd --quiet --lock root

printf 'debian\n' >"$root/etc/hostname"
printf '127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n' >"$root/etc/hosts"
: >"$root/etc/resolv.conf"
# They were copied from the build machine, with its permissions.
chmod 644 "$root/etc/hostname" "$root/etc/hosts" "$root/etc/resolv.conf"
