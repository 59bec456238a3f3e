#!/bin/sh
# Runs in the new system as its root, last. Its one argument is the directory with the keys that were made for it.
set -eu

keys=$1

systemctl --quiet enable systemd-networkd systemd-resolved ssh
ln -sf ../run/systemd/resolve/stub-resolv.conf /etc/resolv.conf

# Whoever is not root: in group kvm, with ranges of ids, and with a user manager that is there before a login.
groupadd --force kvm
useradd --create-home --uid 1000 --shell /bin/bash --groups kvm tester
mkdir -p /var/lib/systemd/linger
touch /var/lib/systemd/linger/tester
chmod 440 /etc/sudoers.d/tester

for home in /root /home/tester; do
    mkdir -p "$home/.ssh"
    cp "$keys/client.pub" "$home/.ssh/authorized_keys"
    chmod 700 "$home/.ssh"
    chmod 600 "$home/.ssh/authorized_keys"
done
chown -R tester: /home/tester

# The host's key is known to the outside before the first login.
rm -f /etc/ssh/ssh_host_*
cp "$keys/host" /etc/ssh/ssh_host_ed25519_key
cp "$keys/host.pub" /etc/ssh/ssh_host_ed25519_key.pub
chmod 600 /etc/ssh/ssh_host_ed25519_key

printf 'virtio_pci\nvirtio_blk\n' >>/etc/initramfs-tools/modules
update-initramfs -u -k all
# A boot makes its own.
: >/etc/machine-id
# PAM looks for it at each login.
: >/etc/default/locale
