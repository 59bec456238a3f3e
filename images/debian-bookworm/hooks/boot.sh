#!/bin/sh
# Takes work out of the boot that a virtual machine with a ready-made root does not need.
# What can be said by masking a unit is in the recipe; here is the rest: generators, units
# that start on first use, and settings of systemd's own programs. Nothing is removed for
# good: each piece starts on demand or with one `systemctl` command.
# What each part bought is in docs/images.md, "Why it boots quickly".
# Usage (mmdebstrap --customize-hook): boot.sh ROOT
set -eu

root=$1
etc=$root/etc/systemd

# drop_in UNIT: writes standard input as a drop-in of UNIT.
drop_in() {
    mkdir -p "$etc/system/$1.d"
    cat >"$etc/system/$1.d/50-banger-image.conf"
}

# A generator is a process at every boot. These look for disks, partition tables, consoles and
# kernel parameters that a VM with an assembled root never has. fstab's and sysv's stay: people
# use them.
mkdir -p "$etc/system-generators"
for generator in cryptsetup integritysetup veritysetup gpt-auto hibernate-resume rc-local system-update getty debug run; do
    ln -sf /dev/null "$etc/system-generators/systemd-$generator-generator"
done

# systemd ignores a wants-link that leads to /dev/null, and the unit itself stays usable:
# dbus is started by its socket, logind by its bus name, gettys by hand.
wants=$etc/system/multi-user.target.wants
mkdir -p "$wants"
for unit in dbus.service systemd-logind.service getty.target; do
    ln -sf /dev/null "$wants/$unit"
done

# sshd as a socket: a listening port costs the boot nothing, each connection starts its sshd.
chroot "$root" systemctl --quiet disable ssh.service
chroot "$root" systemctl --quiet enable ssh.socket
chroot "$root" systemctl --quiet set-default multi-user.target

# tmpfiles.d(5): an entry in /etc replaces the one of the same name in /usr/lib. Without
# systemd-user-sessions.service nothing would remove the file that keeps people out.
mkdir -p "$root/etc/tmpfiles.d"
ln -sf /dev/null "$root/etc/tmpfiles.d/systemd-nologin.conf"

# Cold-plugging replays the "add" event of every device, about 200 of them with 64 virtual
# terminals, and loads modules for the processor's features. Replay what somebody can ask
# about: disks (by-uuid links), network interfaces, permissions of devices such as kvm, and the
# console lines, because a getty unmasked by somebody waits for the device unit of its line.
# Devices that appear later are handled as always.
drop_in systemd-udev-trigger.service <<'CONF'
[Service]
ExecStart=
ExecStart=-udevadm trigger --type=devices --action=add --subsystem-match=block --subsystem-match=net --subsystem-match=misc --subsystem-match=rtc --subsystem-match=virtio-ports
ExecStart=-udevadm trigger --type=devices --action=add --subsystem-match=tty --sysname-match=ttyS0 --sysname-match=hvc0
CONF

# Each credential costs a mount of its own at boot, and nobody passes any: identity comes
# from the agent.
drop_in systemd-sysctl.service <<'CONF'
[Service]
LoadCredential=
CONF

# One run of systemd-tmpfiles instead of two (the recipe masks the other, which makes the static
# device nodes), and udev need not wait for it: the nodes' permissions come from tmpfiles too.
drop_in systemd-tmpfiles-setup.service <<'CONF'
[Unit]
Wants=kmod-static-nodes.service
After=kmod-static-nodes.service

[Service]
LoadCredential=
ExecStart=
ExecStart=systemd-tmpfiles --create --remove --boot
CONF

# The journal lives in memory until somebody makes the directory (journald.conf(5),
# Storage=auto); then the flush to disk runs at boot again.
rm -rf "$root/var/log/journal"
drop_in systemd-journal-flush.service <<'CONF'
[Unit]
ConditionPathExists=/var/log/journal
CONF
mkdir -p "$etc/journald.conf.d"
cat >"$etc/journald.conf.d/50-banger-image.conf" <<'CONF'
[Journal]
RuntimeMaxUse=32M
SystemMaxUse=128M
CONF

# With an empty directory systemd-modules-load.service is skipped by its own condition.
rm -f "$root/etc/modules-load.d/modules.conf"
printf '# Not read here: put module names into a file in /etc/modules-load.d/.\n' >"$root/etc/modules"

# A service that ignores SIGTERM must not hold up a stop for a minute and a half.
mkdir -p "$etc/system.conf.d"
cat >"$etc/system.conf.d/50-banger-image.conf" <<'CONF'
[Manager]
DefaultTimeoutStopSec=10s
CONF
