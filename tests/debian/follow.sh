#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Follow "Use it on Debian" of README.rst in a Debian of its own, with Debian's
# mailman3 and postfix, and break one thing after the other:
#
#     follow.sh trixie|bookworm
#
# It needs root, debootstrap, git and python3-venv, and leaves nothing behind.
# The network is used for packages only; inside.sh, which does the rest, has
# nothing but a loopback interface and sees no processes but its own.

# shellcheck disable=SC2086

set -eu

suite=$1
checkout=$(cd "$(dirname "$0")/../.." && pwd)
work=$(mktemp -d /var/tmp/mta-pool-debian-XXXXXX)
trap 'rm -rf --one-file-system "$work"' EXIT
root=$work/root

# Run a command there; whatever it started ends with it.
in_root() {
    unshare ${alone:-} --mount --pid --fork --kill-child \
        --mount-proc="$root/proc" \
        sh -euc 'mount --rbind /dev "$1/dev"; ip link set lo up
            exec chroot "$@"' \
        sh "$root" env -i HOME=/root LANG=C.UTF-8 \
        PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
        DEBIAN_FRONTEND=noninteractive \
        PIP_NO_INDEX=1 PIP_FIND_LINKS=/root/wheels "$@"
}

debootstrap --variant=minbase "$suite" "$root" >"$work/log"
cp /etc/resolv.conf "$root/etc/"
echo '127.0.0.1 localhost lists.example.com' >"$root/etc/hosts"
# Nothing is started before it has a loopback interface to itself.
printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
chmod +x "$root/usr/sbin/policy-rc.d"
in_root debconf-set-selections <<END
mailman3 mailman3/dbconfig-install boolean true
postfix postfix/main_mailer_type select Internet Site
postfix postfix/mailname string lists.example.com
END
in_root apt-get -qq update
in_root apt-get -qq -y --no-install-recommends install \
    dbconfig-sqlite3 mailman3 postfix >"$work/log" 2>&1 ||
    { tail -n 50 "$work/log"; exit 1; }
# For the login and the certificate that go wrong.
in_root apt-get -qq -y --no-install-recommends install \
    libsasl2-modules openssl sasl2-bin >"$work/log" 2>&1
# What the commands of README.rst fetch; nobody is there to answer apt.
in_root apt-get -qq -y --no-install-recommends --download-only \
    install python3-pip >"$work/log"
echo 'APT::Get::Assume-Yes "true";' >"$root/etc/apt/apt.conf.d/yes"
python3 -m venv "$work/venv"
"$work/venv/bin/pip" -q download --no-deps --dest "$root/root/wheels" \
    setuptools
git clone -q "$checkout" "$root/root/mailman_mta_pool"

alone=--net
in_root sh /root/mailman_mta_pool/tests/debian/inside.sh
