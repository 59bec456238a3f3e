#!/bin/sh
# How people get in: sshd with keys only, root included, and a locale that exists.
# Usage (mmdebstrap --customize-hook): access.sh ROOT
set -eu

root=$1

mkdir -p "$root/etc/ssh/sshd_config.d"
cat >"$root/etc/ssh/sshd_config.d/50-banger-image.conf" <<'CONF'
PermitRootLogin prohibit-password
PubkeyAuthentication yes
PasswordAuthentication no
KbdInteractiveAuthentication no
UseDNS no
CONF

# sshd refuses to start without its privilege separation directory, and /run is empty at boot.
mkdir -p "$root/etc/tmpfiles.d"
printf 'd /run/sshd 0755 root root -\n' >"$root/etc/tmpfiles.d/sshd.conf"

# Host keys are part of a VM's identity and come from the agent, before init. Where they are
# missing (this image booted by something else) they are made once: slow, but no closed door.
cat >"$root/etc/systemd/system/ssh-host-keys.service" <<'CONF'
[Unit]
Description=Make missing SSH host keys
DefaultDependencies=no
ConditionPathExists=!/etc/ssh/ssh_host_ed25519_key
After=local-fs.target
Before=ssh.socket ssh.service shutdown.target
Conflicts=shutdown.target

[Service]
Type=oneshot
ExecStart=/usr/bin/ssh-keygen -A

[Install]
WantedBy=multi-user.target
CONF
chroot "$root" systemctl --quiet enable ssh-host-keys.service

printf 'LANG=C.UTF-8\n' >"$root/etc/default/locale"
printf 'LANG=C.UTF-8\n' >"$root/etc/locale.conf"
