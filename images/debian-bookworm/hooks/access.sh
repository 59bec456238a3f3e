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

# Host keys come from the agent as part of the VM's identity. A VM booted by something else
# gets them here, once: `ssh-keygen -A` makes only the missing ones.
for unit in ssh.service ssh@.service; do
    mkdir -p "$root/etc/systemd/system/$unit.d"
    cat >"$root/etc/systemd/system/$unit.d/50-host-keys.conf" <<'CONF'
[Service]
ExecStartPre=
ExecStartPre=/bin/sh -c 'test -e /etc/ssh/ssh_host_ed25519_key || exec ssh-keygen -A'
CONF
done

printf 'LANG=C.UTF-8\n' >"$root/etc/default/locale"
printf 'LANG=C.UTF-8\n' >"$root/etc/locale.conf"
