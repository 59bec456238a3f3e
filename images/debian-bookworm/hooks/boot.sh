#!/bin/sh
# Removes work from the boot that a virtual machine with a ready-made root does not need.
# What is here and not in the recipe's `mask` list is not a unit of its own: generators,
# wants-links of units that stay available on demand, and settings of systemd's programs.
# What each entry bought is measured in docs/images.md, "Why it boots quickly".
# Usage (mmdebstrap --customize-hook): boot.sh ROOT
set -eu

root=$1
etc=$root/etc/systemd

# A generator is a process at every boot. These look for disks, partitions and partition
# tables that a VM with an assembled root never has.
mkdir -p "$etc/system-generators"
for generator in cryptsetup integritysetup veritysetup gpt-auto hibernate-resume rc-local system-update getty; do
    ln -sf /dev/null "$etc/system-generators/systemd-$generator-generator"
done

# Started on first use instead of at boot: systemd ignores a wants-link that leads to /dev/null.
mkdir -p "$etc/system/multi-user.target.wants"
for unit in dbus.service systemd-logind.service getty.target systemd-update-utmp-runlevel.service systemd-user-sessions.service systemd-ask-password-wall.path; do
    ln -sf /dev/null "$etc/system/multi-user.target.wants/$unit"
done

# sshd as a socket: a listening port costs nothing at boot, sshd starts with the first connection.
rm -f "$etc/system/multi-user.target.wants/ssh.service" "$etc/system/sshd.service"
mkdir -p "$etc/system/sockets.target.wants"
ln -sf /lib/systemd/system/ssh.socket "$etc/system/sockets.target.wants/ssh.socket"
ln -sf /lib/systemd/system/multi-user.target "$etc/system/default.target"
