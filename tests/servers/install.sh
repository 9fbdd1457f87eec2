#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Install the real servers that the tests use, on Debian, as root.
# Running it again does nothing.  Where it was not run the tests that need the
# servers are skipped.
#
# Debian's mail servers exclude one another: Postfix is installed, and Exim
# unpacked into a directory of its own, MTA_POOL_CACHE, which other users must
# be able to enter.

set -eu

cache=${MTA_POOL_CACHE:-/var/cache/mailman-mta-pool}

install_packages() {
    missing=
    for package in "$@"; do
        dpkg -s "$package" >/dev/null 2>&1 || missing="$missing $package"
    done
    test -z "$missing" && return
    # shellcheck disable=SC2086
    apt-get -qq install --no-install-recommends $missing >/dev/null
}

install_postfix() {
    command -v postfix >/dev/null && return
    # No server of the package's own is to listen on port 25.
    echo 'postfix postfix/main_mailer_type select No configuration' |
        debconf-set-selections
    install_packages postfix
}

install_postgresql() {
    ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1 && return
    install_packages postgresql
}

install_exim() {
    id Debian-exim >/dev/null 2>&1 ||
        useradd --system --user-group --no-create-home --badname \
            --home-dir /nonexistent --shell /usr/sbin/nologin Debian-exim
    exim_runs && return
    mkdir -p "$cache"
    (
        cd "$cache"
        rm -f exim4-daemon-light_*.deb
        apt-get -qq -o APT::Sandbox::User=root download \
            exim4-daemon-light >/dev/null
        # The libraries have other names in each release, and the package
        # knows them.  What else it depends on is for a server at work.
        apt-get -qq satisfy --no-install-recommends "$(
            dpkg-deb --field exim4-daemon-light_*.deb Depends |
                tr ',' '\n' | sed -n 's/^ *lib/lib/p' | paste -sd ,)" \
            >/dev/null
        dpkg-deb --extract exim4-daemon-light_*.deb exim
        rm exim4-daemon-light_*.deb
    )
}

# Tell whether Exim is there, and all libraries that it needs.
exim_runs() {
    test -x "$cache/exim/usr/sbin/exim4" &&
        ! ldd "$cache/exim/usr/sbin/exim4" | grep -q 'not found'
}

if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
    echo 'install.sh: the servers need root on a Debian system' >&2
    exit 1
fi
export DEBIAN_FRONTEND=noninteractive
# A fresh image comes without the lists of packages.
ls /var/lib/apt/lists/*_Packages* >/dev/null 2>&1 || apt-get -qq update
install_postfix
install_exim
install_postgresql
