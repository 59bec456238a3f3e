#!/bin/sh
# Makes the full variant's tools wait for their first use: what they would start at boot,
# they start when somebody asks for it.
# Usage (mmdebstrap --customize-hook): tools.sh ROOT
set -eu

root=$1
wants=$root/etc/systemd/system

# Docker's socket listens, its two daemons do not run until somebody connects.
rm -f "$wants/multi-user.target.wants/docker.service" "$wants/multi-user.target.wants/containerd.service"
mkdir -p "$wants/sockets.target.wants"
ln -sf /lib/systemd/system/docker.socket "$wants/sockets.target.wants/docker.socket"

# Debian's Compose is a program of its own; `docker compose` finds it through this plugin
# (protocol: the CLI asks for metadata first, then calls `docker-compose compose ARGUMENT…`).
plugins=$root/usr/local/lib/docker/cli-plugins
mkdir -p "$plugins"
cat >"$plugins/docker-compose" <<'PLUGIN'
#!/bin/sh
if [ "${1-}" = docker-cli-plugin-metadata ]; then
    echo '{"SchemaVersion":"0.1.0","Vendor":"Debian","Version":"1.29.2","ShortDescription":"Docker Compose (Debian)"}'
    exit
fi
[ "${1-}" = compose ] && shift
exec /usr/bin/docker-compose "$@"
PLUGIN
chmod 755 "$plugins/docker-compose"

# Python registers .pyc files as programs, at each boot, for about a second. Nobody starts
# those by name; the exclusion keeps an upgrade from bringing the file back.
printf 'path-exclude=/usr/lib/binfmt.d/python*.conf\n' >"$root/etc/dpkg/dpkg.cfg.d/50-banger-image"
rm -f "$root"/usr/lib/binfmt.d/python*.conf
