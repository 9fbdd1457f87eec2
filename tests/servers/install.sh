#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Install the real servers that the tests use, on Debian, as root.
# Running it again does nothing.  Where it was not run the tests that need the
# servers are skipped.
#
# Debian's mail servers exclude one another: Postfix is installed, and Exim
# unpacked into a directory of its own, MTA_POOL_CACHE, which other users must
# be able to enter.  nginx is unpacked there as well, because the package would
# start a web server.

set -eu

cache=${MTA_POOL_CACHE:-/var/cache/mailman-mta-pool}
libraries='libdb5.3 libevent-2.1-7 libgnutls-dane0 libgnutls30 libidn12
    libidn2-0 libnsl2 libpcre2-8-0'
nginx_libraries='libcrypt1 libpcre2-8-0 libssl3 zlib1g'

install_packages() {
    missing=
    for package in "$@"; do
        dpkg -s "$package" >/dev/null 2>&1 || missing="$missing $package"
    done
    test -z "$missing" && return
    # shellcheck disable=SC2086
    apt-get -qq install --no-install-recommends $missing >/dev/null
}

# Unpack packages into a directory below the cache: unpack DIRECTORY PACKAGE...
unpack() {
    directory=$1
    shift
    mkdir -p "$cache"
    (
        cd "$cache"
        for package in "$@"; do
            apt-get -qq -o APT::Sandbox::User=root download \
                "$package" >/dev/null
            dpkg -x "$package"_*.deb "$directory"
            rm "$package"_*.deb
        done
    )
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
    # shellcheck disable=SC2086
    install_packages $libraries
    id Debian-exim >/dev/null 2>&1 ||
        useradd --system --user-group --no-create-home --badname \
            --home-dir /nonexistent --shell /usr/sbin/nologin Debian-exim
    test -x "$cache/exim/usr/sbin/exim4" && return
    unpack exim exim4-daemon-light
}

install_nginx() {
    # shellcheck disable=SC2086
    install_packages $nginx_libraries
    # The module is unpacked last.
    test -e "$cache/nginx/usr/lib/nginx/modules/ngx_mail_module.so" && return
    unpack nginx nginx libnginx-mod-mail
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
install_nginx
install_postgresql
