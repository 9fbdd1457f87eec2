#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Install the real servers that the tests use, on Debian, as root.
# Running it again does nothing.  Where it was not run the tests that need the
# servers are skipped.
#
# Debian's mail servers exclude one another: Postfix is installed, and Exim
# unpacked into a directory of its own, MTA_POOL_CACHE, which other users must
# be able to enter.  nginx and Redis are unpacked there as well, because their
# packages would start servers.

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

# Run a command while no package may start its server.
without_services() {
    policy=/usr/sbin/policy-rc.d
    if [ -e "$policy" ]; then
        "$@"
        return
    fi
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
    trap 'rm -f "$policy"' EXIT
    "$@"
    rm -f "$policy"
    trap - EXIT
}

# Its paths are compiled in, so that it cannot be unpacked elsewhere.
install_dovecot() {
    test -x /usr/lib/dovecot/submission && return
    without_services install_packages dovecot-core dovecot-submissiond
}

# Unpack packages into a directory below the cache, and install the libraries
# that they need: unpack DIRECTORY PACKAGE...  The libraries have other names in
# each release, and the packages know them.  What else the packages depend on is
# for a server at work.
unpack() {
    directory=$1
    shift
    mkdir -p "$cache"
    (
        cd "$cache"
        for package in "$@"; do
            rm -f "$package"_*.deb
            apt-get -qq -o APT::Sandbox::User=root download \
                "$package" >/dev/null
            apt-get -qq satisfy --no-install-recommends "$(
                dpkg-deb --field "$package"_*.deb Depends |
                    tr ',' '\n' | sed -n 's/^ *lib/lib/p' |
                    grep -v '^libnginx' | paste -sd ,)" >/dev/null
            dpkg-deb --extract "$package"_*.deb "$directory"
            rm "$package"_*.deb
        done
    )
}

# Tell whether a program is there, and all libraries that it needs.
runs() {
    test -x "$cache/$1" && ! ldd "$cache/$1" | grep -q 'not found'
}

install_exim() {
    id Debian-exim >/dev/null 2>&1 ||
        useradd --system --user-group --no-create-home --badname \
            --home-dir /nonexistent --shell /usr/sbin/nologin Debian-exim
    runs exim/usr/sbin/exim4 || unpack exim exim4-daemon-light
}

install_nginx() {
    # The module is unpacked last.
    test -e "$cache/nginx/usr/lib/nginx/modules/ngx_mail_module.so" &&
        runs nginx/usr/sbin/nginx || unpack nginx nginx libnginx-mod-mail
}

# redis-check-rdb, in redis-tools, is the server under another name.
install_redis() {
    runs redis/usr/bin/redis-server && return
    unpack redis redis-tools
    ln -sf redis-check-rdb "$cache/redis/usr/bin/redis-server"
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
install_nginx
install_redis
install_dovecot
