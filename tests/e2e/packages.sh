#!/bin/sh
# Installs what the tests in this folder need of Debian. Quick when it is there already.
set -eu

packages="systemd-container dbus mmdebstrap procps
faketime strace
awscli restic rclone s3cmd duplicity python3-boto3 util-linux bsdextrautils
podman buildah runc netavark aardvark-dns iptables docker-compose docker.io
prometheus prometheus-alertmanager postgresql
chromium fonts-dejavu-core"

missing=
for package in $packages; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' \
        || missing="$missing $package"
done
[ "$missing" ] || exit 0
[ "$(id -u)" = 0 ] || { echo "as root: apt-get install$missing" >&2; exit 1; }

# A package starts its own daemon at its installation, unless this says that it may not.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' > "$policy"
    chmod 755 "$policy"
    trap 'rm -f "$policy"' EXIT
fi
echo "installing$missing"
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -qq -y --no-install-recommends $missing > /dev/null
