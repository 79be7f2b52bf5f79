#!/bin/sh
# Installs rekeyd as a systemd service, or takes it away again. `--help` says how.
set -eu

HERE=$(cd "$(dirname "$0")/../.." && pwd)
PREFIX=/opt/rekeyd
UNITS=/etc/systemd/system
SETTINGS=/etc/rekeyd
PYTHON=${PYTHON:-/usr/bin/python3}
UNIT_FILES="rekeyd.service rekeyd-rotate-due.service rekeyd-rotate-due.timer"
HARDENED="rekeyd.service rekeyd-rotate-due.service"

dry=
wheels=
purge=
action=install

usage() {
    cat <<TEXT
usage: install.sh [install | uninstall] [--dry-run] [--wheels FOLDER] [--purge]

  install     puts rekeyd into $PREFIX from the hash-locked list deploy/lock/runtime.txt, the units
              into $UNITS, and what is missing of $SETTINGS. Starts nothing that
              does not run yet. Doing it again upgrades.
  uninstall   stops rekeyd and removes the units and $PREFIX; keys in AWS stay as they are

  --dry-run         prints every command instead of running it
  --wheels FOLDER   takes all packages, and rekeyd itself, from this folder: no network is used
  --purge           with uninstall: removes $SETTINGS and the state too
TEXT
}

fail() {
    echo "install.sh: $1" >&2
    exit 1
}

run() {
    if [ "$dry" ]; then
        printf '+ %s\n' "$*"
    else
        "$@"
    fi
}

check_machine() {
    [ -x "$PYTHON" ] || fail "there is no $PYTHON; install python3, or name another with PYTHON="
    "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
        || fail "rekeyd needs Python 3.11 or newer"
    case $(readlink -f "$PYTHON") in
        /usr/*) ;;
        *) fail "$PYTHON is not under /usr, where alone the service may run programs from" ;;
    esac
    "$PYTHON" -c 'import ensurepip' 2>/dev/null \
        || fail "python3-venv is missing: apt-get install python3-venv"
    version=$(systemctl --version | sed -n '1s/^systemd \([0-9]*\).*/\1/p')
    [ "${version:-0}" -ge 250 ] || fail "rekeyd needs systemd 250 or newer, this is ${version:-none}"
}

install_program() {
    run "$PYTHON" -m venv "$PREFIX"
    pip="$PREFIX/bin/python -m pip --quiet --disable-pip-version-check --no-cache-dir"
    if [ "$wheels" ]; then
        offline="--no-index --find-links $wheels"
        run $pip install $offline --require-hashes --only-binary :all: \
            -r "$HERE/deploy/lock/runtime.txt"
        run $pip install $offline --no-deps --force-reinstall rekeyd
    else
        run $pip install --require-hashes -r "$HERE/deploy/lock/runtime.txt"
        run $pip install --no-deps --force-reinstall "$HERE"
    fi
    run install -d -m 755 "$PREFIX/root" /usr/local/bin
    run ln -sfn "$PREFIX/bin/rekeyd" /usr/local/bin/rekeyd
}

install_units() {
    for unit in $UNIT_FILES; do
        run install -m 644 "$HERE/deploy/systemd/$unit" "$UNITS/$unit"
    done
    for unit in $HARDENED; do
        run install -d -m 755 "$UNITS/$unit.d"
        run install -m 644 "$HERE/deploy/systemd/hardening.conf" "$UNITS/$unit.d/10-hardening.conf"
    done
    run systemctl daemon-reload
}

install_settings() {
    run install -d -m 755 "$SETTINGS"
    if [ ! -e "$SETTINGS/seal.key" ]; then
        run install -m 600 /dev/null "$SETTINGS/seal.key"
        run dd if=/dev/urandom of="$SETTINGS/seal.key" bs=32 count=1 status=none
    fi
    if [ ! -e "$SETTINGS/rekeyd.yaml" ]; then
        run install -m 644 "$HERE/deploy/systemd/rekeyd.yaml" "$SETTINGS/rekeyd.yaml"
    fi
}

install_all() {
    check_machine
    install_program
    install_settings
    install_units
    run systemctl try-restart rekeyd.service
    cat <<TEXT
rekeyd is installed. What is left for you:
  1. say whose keys to rotate in $SETTINGS/rekeyd.yaml, and see: rekeyd check --offline
  2. give it its AWS credentials, unless this is an instance with a role: deploy/README.md
  3. systemctl enable --now rekeyd
TEXT
}

uninstall_all() {
    if [ -e "$UNITS/rekeyd.service" ]; then
        run systemctl disable --quiet --now rekeyd.service rekeyd-rotate-due.timer
    fi
    for unit in $UNIT_FILES; do
        run rm -f "$UNITS/$unit"
    done
    for unit in $HARDENED; do
        run rm -f "$UNITS/$unit.d/10-hardening.conf"
        [ ! -d "$UNITS/$unit.d" ] || run rmdir --ignore-fail-on-non-empty "$UNITS/$unit.d"
    done
    run systemctl daemon-reload
    run rm -f /usr/local/bin/rekeyd
    run rm -rf "$PREFIX"
    if [ "$purge" ]; then
        run rm -rf "$SETTINGS" /var/lib/rekeyd /var/lib/rekeyd-sinks \
            /var/lib/private/rekeyd /var/lib/private/rekeyd-sinks
    else
        echo "kept: $SETTINGS and /var/lib/private/rekeyd, so that the pairs stay known"
    fi
}

while [ $# -gt 0 ]; do
    case $1 in
        install | uninstall) action=$1 ;;
        --dry-run) dry=yes ;;
        --purge) purge=yes ;;
        --wheels)
            [ $# -gt 1 ] || fail "--wheels needs a folder"
            wheels=$(cd "$2" && pwd) || fail "there is no folder $2"
            shift
            ;;
        -h | --help) usage; exit 0 ;;
        *) usage >&2; exit 2 ;;
    esac
    shift
done

[ "$dry" ] || [ "$(id -u)" = 0 ] || fail "this needs root; --dry-run shows what it would do"
case $action in
    install) install_all ;;
    uninstall) uninstall_all ;;
esac
