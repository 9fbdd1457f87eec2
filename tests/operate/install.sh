#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Install what the tests of tests/operate use, on Debian 12 or 13, as root:
# Chromium, promtool and axe-core.  Running it again does nothing.  Where it
# was not run the tests that need these are skipped.
#
# promtool is unpacked into a directory of its own, MTA_POOL_CACHE, because the
# package `prometheus` would start a server.  axe-core is a file there.

set -eu

cache=${MTA_POOL_CACHE:-/var/cache/mailman-mta-pool}

# Say what is wrong, and stop.
stop() {
    echo "install.sh: $1" >&2
    exit 1
}

# Tell whether packages are installed.
have() {
    for package in "$@"; do
        dpkg -s "$package" 2>/dev/null | grep -q '^Status: .* installed$' ||
            return 1
    done
}

install_packages() {
    have "$@" && return
    apt-get -qq install --no-install-recommends "$@" >/dev/null ||
        stop "cannot install: $*"
}

install_promtool() {
    command -v promtool >/dev/null && return
    (
        cd "$cache"
        apt-get -qq -o APT::Sandbox::User=root download prometheus >/dev/null
        dpkg-deb --extract prometheus_*.deb prometheus
        rm prometheus_*.deb
    ) || stop 'cannot unpack promtool'
    ln -sf "$cache/prometheus/usr/bin/promtool" /usr/local/bin/promtool
    promtool --version >/dev/null || stop 'promtool does not run'
}

# Debian's npm has many dependencies, and a machine may have another one.
install_npm() {
    command -v npm >/dev/null || install_packages nodejs npm
}

install_axe() {
    test -s "$cache/axe/axe.min.js" && return
    install_npm
    work=$(mktemp -d)
    (
        cd "$work"
        npm pack --silent axe-core@4 >/dev/null
        tar -xzf axe-core-*.tgz package/axe.min.js
        mkdir -p "$cache/axe"
        mv package/axe.min.js "$cache/axe/axe.min.js"
    ) || stop 'cannot get axe-core from npm'
    rm -r "$work"
}

if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
    stop 'the tools need root on a Debian system'
fi
export DEBIAN_FRONTEND=noninteractive
mkdir -p "$cache"
# A fresh image comes without the lists of packages.
ls /var/lib/apt/lists/*_Packages* >/dev/null 2>&1 || apt-get -qq update
# Chromium has no font of its own.
install_packages chromium fonts-liberation
install_promtool
install_axe
