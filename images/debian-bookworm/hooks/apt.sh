#!/bin/sh
# Leaves apt ready to use and without what it can fetch again.
# Usage (mmdebstrap --customize-hook): apt.sh ROOT
set -eu

root=$1

chroot "$root" apt-get clean
# Settings of the build only: unsynchronised writes are not for a VM that may lose its power.
rm -f "$root/etc/apt/apt.conf.d/99mmdebstrap" "$root/etc/dpkg/dpkg.cfg.d/99mmdebstrap"
rm -rf "$root"/var/lib/apt/lists/*
rm -f "$root"/var/cache/apt/*.bin "$root"/var/log/dpkg.log "$root"/var/log/alternatives.log "$root"/var/log/bootstrap.log
rm -rf "$root"/var/log/apt/*
rm -f "$root"/var/lib/dpkg/*-old "$root"/var/cache/debconf/*-old "$root"/var/cache/ldconfig/aux-cache

# Package indexes are downloaded by every `apt-get update` in the guest: no translations.
printf 'Acquire::Languages "none";\nAPT::Install-Recommends "false";\n' >"$root/etc/apt/apt.conf.d/50banger-image"
