#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
#
# The part of follow.sh that runs in the root file system it made: 200 members
# get a post each before the plugin is installed, with it, after an upgrade
# took it away, and without it again.

set -eu

checkout=$(cd "$(dirname "$0")/../.." && pwd)
members=200
configuration=/etc/mailman3/mailman.cfg

fail() {
    echo "FAILED: $*"
    exit 1
}

# Print a literal block of the section "Use it on Debian", by its number.
block() {
    awk -v wanted="$1" '
        /^=+$/ { inside = (heading == "Use it on Debian") }
        /^[^ ]/ { heading = $0; literal = 0 }
        inside && literal { print substr($0, 5) }
        inside && /::$/ { literal = (++number == wanted) }
        ' "$checkout/README.rst" | sed '/./,$!d'
}

# Run the commands of such a block, as they stand there.
follow() {
    block "$1" | sed 's/^/# /'
    block "$1" >/root/commands
    (cd "$checkout" && sh -eu /root/commands)
}

# No systemd runs here.  This does what it does with a unit of this kind.
install_systemctl() {
    install -d -o list -g list /run/mailman3
    cat >/usr/local/bin/systemctl <<'END'
#!/bin/sh
test "$*" = 'restart mailman3' || exit 2
unit() {
    sed -n "s/^$1=//p" /lib/systemd/system/mailman3.service
}
as_user() {
    # shellcheck disable=SC2086
    setpriv --reuid "$(unit User)" --regid "$(unit Group)" --init-groups $1
}
if master=$(cat "$(unit PIDFile)" 2>/dev/null); then
    as_user "$(unit ExecStop)" || kill "$master"
    tail --pid "$master" -f /dev/null
fi
as_user "$(unit ExecStart)"
END
    chmod +x /usr/local/bin/systemctl
}

# As README.Debian of mailman3 says, and with mailboxes for the members.
start_postfix() {
    install -d -o mail -g mail /var/mail/members
    sed 's/\(.*\)@.*/& \1/' /tmp/members >/etc/postfix/members
    lmtp=hash:/var/lib/mailman3/data/postfix_lmtp
    postconf -e 'owner_request_special = no' "transport_maps = $lmtp" \
        "local_recipient_maps = proxy:unix:passwd.byname $lmtp" \
        'relay_domains = hash:/var/lib/mailman3/data/postfix_domains' \
        'virtual_mailbox_domains = members.example.com' \
        'virtual_mailbox_base = /var/mail/members' \
        'virtual_mailbox_maps = texthash:/etc/postfix/members' \
        'virtual_minimum_uid = 1' 'virtual_uid_maps = static:8' \
        'virtual_gid_maps = static:8' \
        'queue_run_delay = 1s' 'minimal_backoff_time = 1s' \
        'maximal_backoff_time = 1s' 'maillog_file = /var/log/mail.log'
    postfix start
}

create_list() {
    mailman-wrapper create ant@lists.example.com
    for number in $(seq "$members"); do
        echo "member$number@members.example.com"
    done >/tmp/members
    mailman-wrapper addmembers --no-welcome-msg /tmp/members \
        ant@lists.example.com >/dev/null
}

# Send a post with this subject, by way of Postfix, as a member does.
post() {
    printf '%s\n' 'From: member1@members.example.com' \
        'To: ant@lists.example.com' "Subject: $1" '' 'Ants are strong.' |
        sendmail -f member1@members.example.com ant@lists.example.com
}

# Wait until every member has the post with this subject, once.
arrived() {
    deadline=$(($(date +%s) + 120))
    until [ "$(copies "$1")" -ge "$members" ]; do
        if [ "$(date +%s)" -gt "$deadline" ]; then
            tail -n 20 /var/log/mail.log /var/log/mailman3/*
            fail "$1: $(copies "$1") of $members copies"
        fi
        sleep 1
    done
    boxes=$(grep -l "^Subject: .*$1\$" /var/mail/members/* | wc -l)
    test "$(copies "$1") $boxes" = "$members $members" ||
        fail "$1: $(copies "$1") copies in $boxes mailboxes"
    echo "=== $1: arrived at $members members"
}

copies() {
    cat /var/mail/members/* 2>/dev/null | grep -c "^Subject: .*$1\$" || true
}

cd /
install_systemctl
systemctl restart mailman3
create_list
start_postfix
post 'before'
arrived 'before'

cp -a "$configuration" /root/stock.cfg
follow 1
block 2 | tee -a "$configuration"
follow 3
post 'with the plugin'
arrived 'with the plugin'
test -d /var/lib/mailman3/mta_pool/journal || fail 'it was not ours'
mode=$(stat -c '%a %U:%G' /etc/mailman3/mta_pool.cfg)
test "$mode" = '640 root:list' || fail "$mode"

# This is what an upgrade leaves: the configuration without the plugin.
pip -q uninstall -y --break-system-packages mailman-mta-pool
for command in 'systemctl restart mailman3' 'mailman-wrapper info'; do
    $command >/root/missing 2>&1 && fail "$command: works without the plugin"
    tail -n 1 /root/missing
    test "$(tail -n 1 /root/missing)" = "$(block 4)" ||
        fail "$command: not the error that README.rst names"
done
post 'while it was gone'
follow 5
arrived 'while it was gone'

pip -q uninstall -y --break-system-packages mailman-mta-pool
cat /root/stock.cfg >"$configuration"
systemctl restart mailman3
post 'without the lines'
arrived 'without the lines'

mailman-wrapper info | head -n 2
postconf mail_version
