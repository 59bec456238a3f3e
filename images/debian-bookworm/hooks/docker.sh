#!/bin/sh
# Docker starts with its first use: its socket listens, the daemon does not run at boot.
# Usage (mmdebstrap --customize-hook): docker.sh ROOT
set -eu

root=$1
wants=$root/etc/systemd/system

# `systemctl enable` would follow the units' [Install] sections and start both daemons at boot.
rm -f "$wants/multi-user.target.wants/docker.service" "$wants/multi-user.target.wants/containerd.service"
mkdir -p "$wants/sockets.target.wants"
ln -sf /lib/systemd/system/docker.socket "$wants/sockets.target.wants/docker.socket"
