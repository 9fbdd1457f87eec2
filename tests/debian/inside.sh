#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
#
# The part of follow.sh that runs in the root file system it made: 200 members
# get a post each before the plugin is installed, with it, after an upgrade
# took it away, and without it again.  With it, Mailman is stopped, the mail
# server is stopped, its password, its certificate and the configuration go
# wrong, and the retry queue fills: each time the first screen has to say what
# to do.

set -eu

checkout=$(cd "$(dirname "$0")/../.." && pwd)
members=200
configuration=/etc/mailman3/mailman.cfg
own_configuration=/etc/mailman3/mta_pool.cfg
# What a terminal shows without scrolling.
screen=24
# More posts than anybody reads one by one.
many=30
password=correct-horse-battery

fail() {
    echo "FAILED: $*"
    exit 1
}

# Print a literal block of a section of a document, by its number.
block_of() {
    awk -v wanted="$3" -v section="$2" '
        /^=+$/ { inside = (heading == section) }
        /^[^ ]/ { heading = $0; literal = 0 }
        inside && literal { print substr($0, 5) }
        inside && /::$/ { literal = (++number == wanted) }
        ' "$checkout/$1" | sed '/./,$!d'
}

block() {
    block_of README.rst 'Use it on Debian' "$1"
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
rm -f "$(unit PIDFile)"
as_user "$(unit ExecStart)" || exit 1
# It is of the type `forking`: it has started when this file is there.
for _ in $(seq 600); do
    ! test -s "$(unit PIDFile)" || exit 0
    sleep 0.1
done
exit 1
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
    # A post whose file is still locked by the last attempt ("skipped, still
    # being delivered") goes back to `incoming` for a minute, and nothing looks
    # there but new mail and the wake-up, which comes every five minutes.
    postconf -F 'qmgr/unix/wakeup = 1'
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

# Print a post with this subject.
text_of() {
    printf '%s\n' 'From: member1@members.example.com' \
        'To: ant@lists.example.com' "Subject: $1" \
        "Message-ID: <$(id_of "$1")>" '' 'Ants are strong.'
}

id_of() {
    echo "$1@members.example.com" | tr ' ' '-'
}

# Send a post with this subject, by way of Postfix, as a member does.
post() {
    text_of "$1" |
        sendmail -f member1@members.example.com ant@lists.example.com
}

# Hand a post to Mailman when Postfix cannot, as soon as Mailman listens.
hand_over() {
    text_of "$1" >/root/post
    deadline=$(($(date +%s) + 60))
    until python3 -c '
import smtplib
with open("/root/post") as post, smtplib.LMTP("127.0.0.1", 8024) as mailman:
    mailman.sendmail("member1@members.example.com",
                     "ant@lists.example.com", post.read())' 2>/root/log
    do
        [ "$(date +%s)" -le "$deadline" ] || { cat /root/log; fail "$1"; }
        sleep 1
    done
}

# Run a subcommand of mta-pool, show its first screen, and look there for what
# it has to say:
#     says STATUS SUBCOMMAND PATTERN...
says() {
    wanted=$1
    subcommand=$2
    shift 2
    status=0
    # shellcheck disable=SC2086
    mailman-wrapper mta-pool $subcommand >/root/said 2>&1 || status=$?
    echo "# mailman-wrapper mta-pool $subcommand"
    head -n "$screen" /root/said
    test "$status" = "$wanted" ||
        fail "mta-pool $subcommand: status $status, not $wanted"
    # A sentence may go on in the next line.
    first=$(head -n "$screen" /root/said | tr -s '\n ' ' ')
    for pattern in "$@"; do
        echo "$first" | grep -qiE -- "$pattern" ||
            fail "mta-pool $subcommand: its first screen has no '$pattern'"
    done
    for secret in Traceback "$password"; do
        ! grep -q "$secret" /root/said ||
            fail "mta-pool $subcommand: it shows '$secret'"
    done
}

# Print a number of the state: `number_of retry entries`, for example.
number_of() {
    mailman-wrapper mta-pool status --json >/root/state || true
    python3 -c '
import sys, json
with open("/root/state") as fp:
    print(json.load(fp)["queues"][sys.argv[1]][sys.argv[2]])' "$@"
}

# Wait until the retry queue has this many entries.
waiting() {
    deadline=$(($(date +%s) + 120))
    until [ "$(number_of retry entries)" -ge "$1" ]; do
        [ "$(date +%s)" -le "$deadline" ] || {
            tail -n 20 /var/log/mailman3/*
            fail "$1 entries do not come into the retry queue"
        }
        sleep 1
    done
}

# Put lines at the end of mailman.cfg, in the place of those put there last.
with_lines() {
    cat /root/with_plugin.cfg - >"$configuration"
    systemctl restart mailman3
}

# The remedy: the former lines again.  What waits is tried at once then.
mended() {
    with_lines </dev/null
    arrived "$1"
    says 0 status
}

mailman_stopped() {
    master=$(cat /run/mailman3/master.pid)
    mailman-wrapper stop
    tail --pid "$master" -f /dev/null
    says 1 status 'does not run' 'systemctl start mailman3' 'mailman start'
    systemctl restart mailman3
    says 0 status
}

mail_server_stopped() {
    postfix stop
    hand_over 'while Postfix was stopped'
    says 1 check 'refused' '\[mta\] smtp_(host|port)'
    waiting 1
    says 1 status 'retry' 'mta-pool check' 'refused'
    says 0 "trace $(id_of 'while Postfix was stopped')" 'waiting'
    postfix start
    mended 'while Postfix was stopped'
}

wrong_password() {
    install -d /var/spool/postfix/etc
    printf '%s\n' 'pwcheck_method: auxprop' 'auxprop_plugin: sasldb' \
        'mech_list: PLAIN LOGIN' >/etc/postfix/sasl/smtpd.conf
    echo "$password" | saslpasswd2 -p -c -u lists.example.com mailman
    # Debian's smtpd lives in a chroot.
    install -o postfix -m 600 /etc/sasldb2 /var/spool/postfix/etc/sasldb2
    postconf -e 'smtpd_sasl_auth_enable = yes' \
        'smtpd_sasl_local_domain = lists.example.com'
    postfix reload
    login "$password"
    says 0 check 'AUTH'
    login "wrong-$password"
    hand_over 'with a wrong password'
    says 1 check '535' '\[mta\] smtp_(user|pass)'
    waiting 1
    says 1 status 'retry' 'mta-pool check' '535'
    login "$password"
    arrived 'with a wrong password'
    mended 'with a wrong password'
}

login() {
    printf '%s\n' '' '[mta]' 'smtp_user: mailman@lists.example.com' \
        "smtp_pass: $1" | with_lines
}

# Make a certificate for localhost that this machine trusts, good until a time
# as YYYYMMDDHHMMSSZ.
certificate() {
    rm -rf /root/ca
    mkdir /root/ca
    echo 01 >/root/ca/serial
    : >/root/ca/index.txt
    cat >/root/ca/openssl.cnf <<'END'
[ca]
default_ca = own
[own]
new_certs_dir = /root/ca
database = /root/ca/index.txt
serial = /root/ca/serial
default_md = sha256
policy = any
x509_extensions = extensions
[any]
commonName = supplied
[extensions]
subjectAltName = DNS:localhost
basicConstraints = CA:TRUE
[req]
distinguished_name = any
END
    openssl req -new -newkey rsa:2048 -nodes -subj /CN=localhost \
        -config /root/ca/openssl.cnf -keyout /etc/postfix/mail.key \
        -out /root/ca/request 2>/root/ca/log
    openssl ca -batch -selfsign -config /root/ca/openssl.cnf \
        -startdate 20200101000000Z -enddate "$1" -notext \
        -keyfile /etc/postfix/mail.key -in /root/ca/request \
        -out /etc/postfix/mail.pem 2>>/root/ca/log ||
        { cat /root/ca/log; fail 'no certificate'; }
    install -m 644 /etc/postfix/mail.pem \
        /usr/local/share/ca-certificates/mail.crt
    update-ca-certificates --fresh >/dev/null 2>&1
    postfix reload
}

expired_certificate() {
    postconf -e 'smtpd_tls_security_level = may' \
        'smtpd_tls_cert_file = /etc/postfix/mail.pem' \
        'smtpd_tls_key_file = /etc/postfix/mail.key'
    certificate 20991231000000Z
    printf '%s\n' '' '[mta]' 'smtp_secure_mode: starttls' | with_lines
    says 0 check 'TLS' 'days'
    certificate 20200201000000Z
    hand_over 'with an expired certificate'
    says 1 check 'expired' '\[mta\] smtp_'
    waiting 1
    says 1 status 'retry' 'mta-pool check' 'expired' \
        'deferred: localhost:25: TLS: certificate'
    certificate 20991231000000Z
    systemctl restart mailman3
    arrived 'with an expired certificate'
    mended 'with an expired certificate'
}

mistake() {
    echo '[deliveries]' >"$own_configuration"
    says 1 check "$own_configuration" 'deliveries' 'unknown section'
    says 1 status "$own_configuration" 'deliveries' 'correct' 'mta-pool check'
    : >"$own_configuration"
    says 0 status
}

full_retry_queue() {
    printf '%s\n' '[delivery]' 'patience: 0' >"$own_configuration"
    postfix stop
    for number in $(seq "$many"); do
        hand_over "one of many, number $number"
    done
    waiting "$many"
    says 1 status 'retry' "$((many * members))|$many" 'mta-pool check'
    postfix start
    with_lines </dev/null
    for number in $(seq "$many"); do
        arrived "one of many, number $number"
    done
    : >"$own_configuration"
    mended "one of many, number $many"
}

# What docs/start/docker.rst does, but for docker: its pip command, and a
# configuration that is put together as the entry point of the image does it.
as_in_docker() {
    page=docs/start/docker.rst
    pip -q uninstall -y --break-system-packages mailman-mta-pool
    cp -a "$checkout" /tmp/mailman_mta_pool
    awk '/^   RUN / { inside = 1; sub(/RUN /, "") } /^$/ { inside = 0 } inside' \
        "$checkout/$page" >/root/commands
    test -s /root/commands || fail "$page: no RUN"
    sh -eu /root/commands
    test ! -e /tmp/mailman_mta_pool || fail "$page: the checkout is left"
    install -d -o list -g list /opt/mailman
    block_of "$page" docker-mailman 2 >/opt/mailman/mta_pool.cfg
    { printf '%s\n' '[mta]' 'incoming: mailman.mta.postfix.LMTP' \
        'outgoing: mailman.mta.deliver.deliver' 'smtp_host: localhost' \
        'smtp_port: 25' 'configuration: python:mailman.config.postfix' ''
      block_of "$page" docker-mailman 1; } >/etc/mailman.cfg
    for subcommand in check config; do
        su -s /bin/sh list -c "cd /opt/mailman &&
            MAILMAN_CONFIG_FILE=/etc/mailman.cfg mailman mta-pool $subcommand" \
            >/root/said 2>&1 || { cat /root/said; fail "docker: $subcommand"; }
    done
    grep -q 20s /root/said || fail 'docker: mta_pool.cfg is not in force'
    # Mailman would find that file before Debian's.
    rm /etc/mailman.cfg
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
mode=$(stat -c '%a %U:%G' "$own_configuration")
test "$mode" = '640 root:list' || fail "$mode"
says 0 status 'ant@lists\.example\.com' "$members"
says 0 "trace $(id_of 'with the plugin')" 'accepted' "$members"
says 0 "trace $(id_of 'with the plugin') member7@members.example.com" \
    'accepted' 'queued as'
says 1 'trace nobody-has-it@members.example.com' 'nobody-has-it'

cp -a "$configuration" /root/with_plugin.cfg
mailman_stopped
mail_server_stopped
wrong_password
expired_certificate
mistake
full_retry_queue

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

as_in_docker
pip -q uninstall -y --break-system-packages mailman-mta-pool
cat /root/stock.cfg >"$configuration"
systemctl restart mailman3
post 'without the lines'
arrived 'without the lines'

mailman-wrapper info | head -n 2
postconf mail_version
