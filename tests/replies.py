# SPDX-License-Identifier: GPL-3.0-or-later
"""Replies as real servers give them, for each entry of the catalogue.

The sources stand with the entries in settlement/answers.cfg.
"""

# The entry, and for each reply the stage at which it is given.
REPLIES = {
    'exim-sender-verify': (
        ('rcpt',
         '550-Verification failed for <ant-bounces@example.com>\n'
         '550 Sender verify failed'),
        ('rcpt',
         '550-Verification failed for <ant-bounces@example.com>\n'
         '550-Called:   192.0.2.1\n'
         '550-Sent:     RCPT TO:<ant-bounces@example.com>\n'
         '550-Response: 550 User unknown\n'
         '550 Sender verify failed'),
        ),
    'exim-sender-verify-temporary': (
        ('rcpt',
         '451 Could not complete sender verify callout'),
        ),
    'exim-sender-no-domain': (
        ('mail',
         '501 ant-bounces: sender address must contain a domain'),
        ),
    'postfix-sender-domain': (
        ('rcpt',
         '550 5.1.8 <ant-bounces@example.com>: Sender address rejected: '
         'Domain not found'),
        ('rcpt',
         '450 4.1.8 <ant-bounces@example.com>: Sender address rejected: '
         'Domain not found'),
        ),
    'postfix-sender-null-mx': (
        ('rcpt',
         '550 5.7.27 <ant-bounces@example.com>: Sender address rejected: '
         'Domain example.com does not accept mail (nullMX)'),
        ),
    'postfix-sender-unlisted': (
        ('rcpt',
         '550 5.1.0 <ant-bounces+anne=example.org@example.com>: Sender '
         'address rejected: User unknown in local recipient table'),
        ),
    'postfix-sender-undeliverable': (
        ('rcpt',
         '550 5.1.7 <ant-bounces@example.com>: Sender address rejected: '
         'undeliverable address: host mx.example.com[192.0.2.1] said: 550 '
         'User unknown'),
        ('rcpt',
         '450 4.1.7 <ant-bounces@example.com>: Sender address rejected: '
         'unverified address: Address verification in progress'),
        ),
    'postfix-sender-login': (
        ('rcpt',
         '553 5.7.1 <ant-bounces@example.com>: Sender address rejected: not '
         'owned by user mailman'),
        ),
    'postfix-sender-no-login': (
        ('rcpt',
         '553 5.7.1 <ant-bounces@example.com>: Sender address rejected: not '
         'logged in'),
        ),
    'postfix-sender-not-fqdn': (
        ('rcpt',
         '504 5.5.2 <ant-bounces>: Sender address rejected: need '
         'fully-qualified address'),
        ),
    'postfix-sender-access': (
        ('rcpt',
         '554 5.7.1 <ant-bounces@example.com>: Sender address rejected: '
         'Access denied'),
        ('mail',
         '501 5.1.8 Sender address rejected'),
        ),
    'postfix-sender-syntax': (
        ('mail',
         '501 5.1.7 Bad sender address syntax'),
        ),
    'sendmail-sender-domain': (
        ('mail',
         '553 5.1.8 <ant-bounces@example.com>... Domain of sender address '
         'ant-bounces@example.com does not exist'),
        ('mail',
         '451 4.1.8 Domain of sender address ant-bounces@example.com does '
         'not resolve'),
        ),
    'qmail-badmailfrom': (
        ('rcpt',
         '553 sorry, your envelope sender is in my badmailfrom list (#5.7.1)'),
        ),
    'qmail-sender-domain': (
        ('mail',
         '550 sorry, your envelope sender domain must exist (#5.7.1)'),
        ),
    'stalwart-sender': (
        ('mail',
         '501 5.5.4 You are not allowed to send from this address.'),
        ('mail',
         '550 5.7.1 Sender address not allowed.'),
        ),
    'stalwart-sender-system': (
        ('mail',
         "501 5.1.8 Bad sender's system address."),
        ),
    'ses-not-verified': (
        ('end',
         '554 Message rejected: Email address is not verified.'),
        ('end',
         '554 Message rejected: Email address is not verified. The '
         'following identities failed the check in region EU-WEST-1: '
         'ant-bounces@example.com'),
        ),
    'exchange-send-as': (
        ('end',
         '554 5.2.252 SendAsDenied; anne@example.com not allowed to send as '
         'ant-bounces@example.com'),
        ('end',
         '554 5.2.0 STOREDRV.Submission.Exception:SendAsDeniedException; '
         'Failed to process message'),
        ),
    'exchange-bad-outbound-sender': (
        ('end',
         '550 5.1.8 Access denied, bad outbound sender'),
        ),
    'exchange-unregistered-domain': (
        ('end',
         '550 5.7.750 Service unavailable. Client blocked from sending from '
         'unregistered domains.'),
        ),
    'sendgrid-identity': (
        ('end',
         '550 The from address does not match a verified Sender Identity. '
         'Mail cannot be sent until this error is resolved.'),
        ),
    'google-sender-syntax': (
        ('mail',
         '553-5.1.7 The sender address <ant bounces@example.com> is not a '
         'valid RFC\n'
         '553 5.1.7 5321 address. - gsmtp'),
        ),
    'google-authentication': (
        ('end',
         '550-5.7.26 Your email has been blocked because the sender is '
         'unauthenticated.\n'
         '550-5.7.26 Gmail requires all senders to authenticate with either '
         'SPF or DKIM.\n'
         '550 5.7.26 - gsmtp'),
        ('end',
         '421-4.7.32 Your email has been rate limited because the From: '
         'header (RFC5322)\n'
         '421 4.7.32 in this message is not aligned with either the '
         'authenticated SPF or DKIM. - gsmtp'),
        ),
    'google-dmarc': (
        ('end',
         '550-5.7.1 Unauthenticated email from example.com is not accepted '
         "due to domain's DMARC policy.\n"
         '550 5.7.1 - gsmtp'),
        ),
    'exchange-dmarc': (
        ('end',
         '550 5.7.509 Access denied, sending domain [EXAMPLE.COM] does not '
         'pass DMARC verification and has a DMARC policy of reject.'),
        ),
    'exchange-spf': (
        ('end',
         '550 5.7.23 The message was rejected because of Sender Policy '
         'Framework violation'),
        ),
    'stalwart-dmarc': (
        ('end',
         '550 5.7.1 Email rejected per DMARC policy.'),
        ),
    'dmarc-rejected': (
        ('end',
         '550 Message rejected due to senders DMARC policy'),
        ('end',
         '550 DMARC check failed.'),
        ),
    'spf-rejected': (
        ('end',
         '550 SPF check failed'),
        ('rcpt',
         '550 Bad SPF records for example.com'),
        ),
    'spf-not-allowed': (
        ('rcpt',
         '550 5.7.1 192.0.2.1 is not allowed to send from <example.com> per '
         "it's SPF Record"),
        ),
    'stalwart-dkim': (
        ('end',
         '550 5.7.20 No passing DKIM signatures found.'),
        ),
    'mailgun-domain': (
        ('end',
         '421 Domain lists.example.com is not allowed to send: Sandbox '
         'subdomains are for test purposes only.'),
        ),
    'sender-domain-missing': (
        ('mail',
         '553 Domain of sender address ant-bounces@example.com does not '
         'exist'),
        ('mail',
         '553 Sender Domain Resolve Fail'),
        ),
    'sender-rejected': (
        ('rcpt',
         '550 5.1.0 <ant-bounces@example.com> sender rejected.'),
        ('mail',
         '550 Invalid Sender. Your domain has been blacklisted'),
        ('mail',
         '550-Requested action not taken: mailbox unavailable\n'
         '550 Sender address is not allowed.'),
        ),
    'google-relay-daily': (
        ('rcpt',
         '550 5.7.1 Daily SMTP relay limit exceeded for customer'),
        ('rcpt',
         '550 5.4.5 Daily SMTP relay limit exceeded for user'),
        ),
    'google-user-daily': (
        ('end',
         '550 5.4.5 Daily user sending limit exceeded.'),
        ('end',
         '550 5.4.5 Daily sending quota exceeded.'),
        ),
    'ses-daily': (
        ('end',
         '454 Throttling failure: Daily message quota exceeded.'),
        ),
    'exchange-submission-quota': (
        ('end',
         '554 5.2.0 '
         'STOREDRV.Submission.Exception:SubmissionQuotaExceededException'),
        ('end',
         '550 5.2.2 Submission quota exceeded'),
        ),
    'exchange-recipient-quota': (
        ('end',
         "550 5.1.90 Your message can't be sent because you've reached your "
         'daily limit for message recipients'),
        ),
    'exchange-tenant-threshold': (
        ('end',
         '550 5.7.705 Access denied, tenant has exceeded threshold'),
        ('rcpt',
         '550 5.7.708 Access denied, traffic not accepted from this IP'),
        ),
    'sendgrid-credits': (
        ('auth',
         '451 Authentication failed: Maximum credits exceeded'),
        ),
    'sendgrid-hour': (
        ('rcpt',
         '452 Too many recipients received this hour (throttled)'),
        ),
    'godaddy-quota': (
        ('end',
         "554 DED : You've reached your daily relay quota"),
        ),
    'godaddy-hour': (
        ('rcpt',
         '550 This IP has sent too many messages this hour. IB504'),
        ('rcpt',
         '550 This IP has sent too many to too many recipients this hour. '
         'IB607'),
        ),
    'godaddy-day': (
        ('greeting',
         '554 This IP has been blocked for the day, for attempting to send '
         'too many messages. IB111'),
        ),
    'cpanel-hour': (
        ('rcpt',
         '550 Domain example.com has exceeded the max emails per hour '
         '(500/500 (100%)) allowed. Message discarded.'),
        ('rcpt',
         '550 Domain example.com has exceeded the max defers and failures '
         'per hour (5/5 (100%)) allowed. Message discarded.'),
        ),
    'policy-per-hour': (
        ('end',
         '450 4.7.1 <END-OF-MESSAGE>: End-of-data rejected: Number messages '
         'per hour exceeded. Error:RATE_MSG'),
        ),
    'policy-per-day': (
        ('data',
         '554 5.7.1 <DATA>: Data command rejected: only 10 messages per day'),
        ),
    'hour-limit': (
        ('end',
         '550 send spam mail rejected: exceeded hour limit'),
        ),
    'outgoing-quota': (
        ('rcpt',
         '550 User has exceeded outgoing email quota'),
        ),
    'mailu-rate': (
        ('rcpt',
         '450 4.7.1 <mailman>: SASL login name rejected: You are sending '
         'too many emails too fast.'),
        ),
    'ovh-too-many': (
        ('rcpt',
         '550 sorry, too many emails (#5.7.1)'),
        ),
    'google-recipient-rate': (
        ('rcpt',
         '450 4.2.1 The user you are trying to contact is receiving email '
         'too quickly'),
        ('end',
         '450-4.2.1 The user you are trying to contact is receiving mail at '
         'a rate that\n'
         '450 4.2.1 prevents additional messages from being delivered. - '
         'gsmtp'),
        ('rcpt',
         '550-5.2.1 The user you are trying to contact is receiving mail at '
         'a rate that\n'
         '550 5.2.1 prevents additional messages from being delivered.'),
        ),
    'yahoo-recipient-rate': (
        ('rcpt',
         '450 User is receiving mail too quickly'),
        ),
    'exchange-recipient-rate': (
        ('end',
         '550 5.2.122 The recipient has exceeded their limit for the number '
         'of messages they can receive per hour'),
        ),
    'exchange-recipient-thread': (
        ('end',
         '432 4.3.2 STOREDRV.Deliver; recipient thread limit exceeded'),
        ),
    'greylisted': (
        ('rcpt',
         '450 4.2.0 <anne@example.org>: Recipient address rejected: '
         'Greylisted, see '
         'http://postgrey.schweikert.ch/help/example.org.html'),
        ('rcpt',
         '451 4.7.1 Greylisting in action, please come back in 00:05:00'),
        ),
    'google-relay-peak': (
        ('rcpt',
         '450 4.2.1 Peak SMTP relay limit exceeded for this customer'),
        ),
    'google-try-later': (
        ('greeting',
         '421 4.7.0 Try again later, closing connection.'),
        ('ehlo',
         '421 4.7.0 Try again later, closing connection. (EHLO)'),
        ),
    'google-unusual-rate': (
        ('end',
         '421-4.7.28 Gmail has detected an unusual rate of unsolicited mail '
         'originating\n'
         '421 4.7.28 from your IP address. - gsmtp'),
        ('end',
         '550-5.7.28 There is an unusual rate of unsolicited mail '
         'originating from your\n'
         '550 5.7.28 IP address. - gsmtp'),
        ),
    'google-busy': (
        ('mail',
         '421 4.4.5 Server busy, try again later.'),
        ),
    'ses-rate': (
        ('end',
         '454 Throttling failure: Maximum sending rate exceeded.'),
        ),
    'postfix-mail-rate': (
        ('mail',
         '450 4.7.1 Error: too much mail from 192.0.2.1'),
        ('rcpt',
         '450 4.7.1 Error: too much mail from 192.0.2.1'),
        ),
    'postfix-recipient-rate': (
        ('rcpt',
         '450 4.7.1 Error: too many recipients from 192.0.2.1'),
        ),
    'postfix-auth-rate': (
        ('auth',
         '450 4.7.1 Error: too many AUTH commands from 192.0.2.1'),
        ),
    'postfix-tls-rate': (
        ('ehlo',
         '454 4.7.0 Error: too many new TLS sessions from 192.0.2.1'),
        ),
    'rspamd-ratelimit': (
        ('end',
         '451 4.7.1 Ratelimit "user" exceeded'),
        ),
    'exchange-submission-rate': (
        ('mail',
         '421 4.4.2 Message submission rate for this client has exceeded '
         'the configured limit'),
        ),
    'exchange-busy': (
        ('mail',
         '451 4.7.500 Server busy. Please try again later from [192.0.2.1]. '
         '(S77719)'),
        ),
    'exchange-ip-rate': (
        ('mail',
         '451 4.7.650 The mail server [192.0.2.1] has been temporarily rate '
         'limited due to IP reputation.'),
        ),
    'exchange-suspicious': (
        ('mail',
         '451 4.7.850 Access denied, please try again later'),
        ),
    'msndr-too-many': (
        ('rcpt',
         '550 Too many messages. Try again in 92 seconds.'),
        ),
    'yahoo-deferred': (
        ('mail',
         '421 4.7.0 [TSS04] Messages from 192.0.2.1 temporarily deferred '
         'due to unexpected volume or user complaints - 4.16.55.1'),
        ('mail',
         '421 4.7.0 [TS02] Temporarily deferred'),
        ),
    'sendgrid-connects': (
        ('mail',
         '450 too frequent connects from 192.0.2.1, please try again later.'),
        ),
    'tencent-frequency': (
        ('mail',
         '550 Ip frequency limited'),
        ('rcpt',
         '550 Domain frequency limited'),
        ),
    'godaddy-rate': (
        ('greeting',
         '554 This IP has been temporarily blocked for attempting to send '
         'too many messages. IB110'),
        ),
    'stalwart-rate': (
        ('mail',
         '452 4.4.5 Rate limit exceeded, try again later.'),
        ),
    'stalwart-recipient-rate': (
        ('rcpt',
         '451 4.5.3 Try again later.'),
        ),
    'sendmail-connection-rate': (
        ('greeting',
         '421 4.3.2 Connection rate limit exceeded.'),
        ('rcpt',
         '452 4.3.2 Connection rate limit exceeded.'),
        ),
    'orange-later': (
        ('mail',
         '421 mwinf5c77 ME Service refuse. Veuillez essayer plus tard. '
         'Service refused, please try later. OFR_103'),
        ),
    'exim-load': (
        ('greeting',
         '421 mail.example.com: Too much load; please try again later'),
        ),
    'kumo-load': (
        ('mail',
         '421 4.3.2 mail.example.com load shedding. Try later'),
        ),
    'exchange-connections': (
        ('mail',
         '432 4.3.2 Concurrent connections limit exceeded'),
        ('end',
         '432 4.3.2 Concurrent connections limit exceeded'),
        ),
    'postfix-connections': (
        ('greeting',
         '421 4.7.0 mail.example.com Error: too many connections from '
         '192.0.2.1'),
        ),
    'postscreen-busy': (
        ('greeting',
         '421 4.3.2 All server ports are busy'),
        ),
    'exim-connections': (
        ('greeting',
         '421 mail.example.com: Too many concurrent SMTP connections; '
         'please try again later.'),
        ),
    'ses-connections': (
        ('mail',
         '421 Too many concurrent SMTP connections'),
        ),
    'sendmail-connections': (
        ('greeting',
         '421 4.3.2 Too many open connections.'),
        ),
    'godaddy-connections': (
        ('greeting',
         '421 Connection refused, too many sessions from This IP. Lower the '
         'number of concurrent sessions. IB007'),
        ),
    'kumo-sessions': (
        ('greeting',
         '421 4.3.2 mail.example.com too many concurrent sessions. Try later'),
        ),
    'sparkpost-concurrency': (
        ('greeting',
         '421 4.4.5 Service unavailable, concurrency limit reached'),
        ),
    'orange-connections': (
        ('greeting',
         '421 mwinf5c10 ME Trop de connexions, veuillez verifier votre '
         'configuration.'),
        ),
    'exim-messages': (
        ('mail',
         '421 too many messages in this connection'),
        ),
    'ionos-messages': (
        ('mail',
         '451-Requested action aborted\n'
         '451 Mails per session limit'),
        ),
    'opensmtpd-messages': (
        ('mail',
         '452 4.3.0 MAIL FROM: Too many messages sent'),
        ),
    'stalwart-messages': (
        ('mail',
         '452 4.4.5 Maximum number of messages per session exceeded.'),
        ),
    'messages-per-connection': (
        ('mail',
         '421 Max message per connection reached, closing transmission '
         'channel'),
        ('mail',
         '550 This message has exceeded the max number of messages per '
         'session. IB510'),
        ),
    'too-many-connections': (
        ('greeting',
         '421 Too many connections from your host.'),
        ('ehlo',
         '450 too many SMTP sessions for this host'),
        ),
    'connection-limit': (
        ('greeting',
         '421 4.7.0 192.0.2.1 exceeds per-domain connection limit for '
         'example.org'),
        ('greeting',
         '421 The mail server [192.0.2.1] has exceeded the maximum number '
         'of connections.'),
        ),
    'ses-recipients': (
        ('end',
         '554 Transaction failed: Recipient count exceeds 50.'),
        ),
    'enhanced-too-many': (
        ('rcpt',
         '452 4.5.3 Error: too many recipients'),
        ('rcpt',
         '550 5.5.3 Too many recipients'),
        ('rcpt',
         '455 4.5.3 Too many recipients.'),
        ),
    'exim-recipients': (
        ('rcpt',
         '452 too many recipients'),
        ('rcpt',
         '552 too many recipients'),
        ('data',
         '554 Too many recipients'),
        ),
    'opensmtpd-recipients': (
        ('rcpt',
         '451 4.5.0 RCPT TO: Too many recipients'),
        ),
    'godaddy-recipients': (
        ('end',
         '452 This message contains too many recipients. Reduce the number '
         'of recipients and retry. IB605'),
        ),
    'exchange-attribution': (
        ('rcpt',
         '550 5.7.64 TenantAttribution; Relay Access Denied'),
        ),
    'exim-relay': (
        ('rcpt',
         '550 relay not permitted'),
        ),
    'postfix-relay': (
        ('rcpt',
         '554 5.7.1 <anne@example.org>: Relay access denied'),
        ('rcpt',
         '454 4.7.1 <anne@example.org>: Relay access denied'),
        ),
    'sendmail-relay': (
        ('rcpt',
         '550 5.7.1 <anne@example.org>... Relaying denied'),
        ('rcpt',
         '550 5.7.1 Relaying denied. IP name lookup failed [192.0.2.254]'),
        ),
    'qmail-rcpthosts': (
        ('rcpt',
         "553 sorry, that domain isn't in my list of allowed rcpthosts "
         '(#5.7.1)'),
        ),
    'exchange-relay': (
        ('rcpt',
         '550 5.7.1 Unable to relay'),
        ('rcpt',
         '550 5.7.54 SMTP; Unable to relay recipient in non-accepted domain'),
        ),
    'google-relay-denied': (
        ('mail',
         '550-5.7.0 Mail relay denied [192.0.2.1]. Invalid credentials for '
         'relay for one of\n'
         '550 5.7.0 the domains in: example.com - gsmtp'),
        ('mail',
         '550-5.7.1 Invalid credentials for relay [192.0.2.1].\n'
         '550 5.7.1 - gsmtp'),
        ),
    'google-not-whitelisted': (
        ('rcpt',
         '421 4.7.0 IP not in whitelist for RCPT domain, closing connection.'),
        ),
    'google-sending-denied': (
        ('end',
         '550 5.7.0 Mail Sending denied'),
        ),
    'kumo-relay': (
        ('rcpt',
         '550 5.7.1 relaying not permitted for 192.0.2.1'),
        ),
    'stalwart-relay': (
        ('rcpt',
         '550 5.1.2 Relay not allowed.'),
        ),
    'mailenable-relay': (
        ('rcpt',
         '503 This mail server requires authentication when attempting to '
         'send to a non-local e-mail address.'),
        ),
    'cpanel-login': (
        ('rcpt',
         '550-Please turn on SMTP Authentication in your mail client.\n'
         '550 mail.example.com [192.0.2.1] is not permitted to relay '
         'through this server without authentication.'),
        ),
    'relay-denied': (
        ('rcpt',
         '550 Relay denied'),
        ('rcpt',
         '550 host.example.com is not permitted to relay through this '
         'server without authentication'),
        ('rcpt',
         "550 You aren't allowed: not allowed to relay through this machine"),
        ),
    'postfix-tls': (
        ('mail',
         '530 5.7.0 Must issue a STARTTLS command first'),
        ('rcpt',
         '450 4.7.1 Session encryption is required'),
        ),
    'login-required': (
        ('mail',
         '530 5.7.0 Authentication required'),
        ('rcpt',
         '530 5.7.57 SMTP; Client was not authenticated to send anonymous '
         'mail during MAIL FROM'),
        ('mail',
         '530 5.5.1 Must issue an AUTH command first'),
        ),
    'exchange-not-authenticated': (
        ('mail',
         '550 5.7.1 Client was not authenticated'),
        ('mail',
         '535 5.7.3 Not Authorized'),
        ),
    'login-required-words': (
        ('rcpt',
         '550 Unauthenticated senders not allowed'),
        ('mail',
         '550 5.7.1 Authentication required'),
        ('mail',
         '503 5.5.1 You must authenticate first.'),
        ),
    'login-basic': (
        ('auth',
         '550 5.7.30 Basic authentication is not supported for Client '
         'Submission.'),
        ),
    'login-disabled': (
        ('auth',
         '535 5.7.139 Authentication unsuccessful, SmtpClientAuthentication '
         'is disabled for the Tenant.'),
        ),
    'login-application-password': (
        ('auth',
         '534-5.7.9 Application-specific password required. For more '
         'information, go to\n'
         '534 5.7.9 https://support.google.com/mail/?p=InvalidSecondFactor '
         '- gsmtp'),
        ),
    'login-attempts': (
        ('auth',
         '454 4.7.0 Too many login attempts, please try again later.'),
        ),
    'login-temporary': (
        ('auth',
         '454 4.7.0 Temporary authentication failure: Connection lost to '
         'authentication server'),
        ('auth',
         '435 Unable to authenticate at present'),
        ),
    'login-refused': (
        ('auth',
         '535 5.7.8 Error: authentication failed: UGFzc3dvcmQ6'),
        ('auth',
         '535 Authentication Credentials Invalid'),
        ('auth',
         '535 Incorrect authentication data'),
        ),
    'account-suspended': (
        ('rcpt',
         '550 Your account has been suspended'),
        ),
    'postfix-helo': (
        ('rcpt',
         '504 5.5.2 <mailman-core>: Helo command rejected: need '
         'fully-qualified hostname'),
        ('rcpt',
         '450 4.7.1 <mailman-core>: Helo command rejected: Host not found'),
        ),
    'exim-helo': (
        ('ehlo',
         '501 Syntactically invalid EHLO argument(s)'),
        ),
    'google-helo': (
        ('ehlo',
         '501-5.5.4 HELO/EHLO argument "mailman-core" is invalid, closing '
         'connection.\n'
         '501 5.5.4 - gsmtp'),
        ),
    'exchange-helo': (
        ('rcpt',
         '550 5.7.506 Access Denied, Bad HELO'),
        ),
    'exchange-helo-domain': (
        ('ehlo',
         '501 5.5.4 Invalid domain name'),
        ),
    'stalwart-helo': (
        ('ehlo',
         '550 5.5.0 Invalid EHLO domain.'),
        ),
    'haraka-helo': (
        ('ehlo',
         '550 EHLO denied'),
        ),
    'postfix-client-rbl': (
        ('rcpt',
         '554 5.7.1 Service unavailable; Client host [192.0.2.1] blocked '
         'using zen.spamhaus.org; '
         'https://www.spamhaus.org/query/ip/192.0.2.1'),
        ('greeting',
         '521-5.7.1 Service unavailable; client [203.0.113.225] blocked '
         'using dnsbl.sorbs.net\n'
         '521 5.7.1 bye'),
        ),
    'postfix-client-ptr': (
        ('rcpt',
         '450 4.7.25 Client host rejected: cannot find your hostname, '
         '[192.0.2.1]'),
        ('rcpt',
         '450 4.7.1 Client host rejected: cannot find your reverse '
         'hostname, [192.0.2.1]'),
        ),
    'postfix-client': (
        ('rcpt',
         '554 5.7.1 <unknown[192.0.2.1]>: Client host rejected: Access '
         'denied'),
        ),
    'exchange-block-list': (
        ('mail',
         "550 5.7.1 Unfortunately, messages from [192.0.2.1] weren't sent. "
         'Please contact your Internet service provider since part of their '
         'network is on our block list (S3150).'),
        ('mail',
         '550 5.7.511 Access denied, banned sender[192.0.2.1]'),
        ),
    'exchange-banned-address': (
        ('mail',
         '550 5.7.606 Access denied, banned sending IP [198.51.100.222]. To '
         'request removal from this list please visit '
         'https://sender.office.com/'),
        ),
    'exchange-ptr': (
        ('mail',
         '550 5.7.25 Access denied, the sending IPv6 address [2001:db8::1] '
         'must have a reverse DNS record'),
        ),
    'google-ptr': (
        ('end',
         "421-4.7.23 The sending IP address for this message doesn't have a "
         'PTR record, or\n'
         "421 4.7.23 the PTR record's forward DNS entry does not match. - "
         'gsmtp'),
        ),
    'yahoo-listed': (
        ('greeting',
         '553 5.7.1 [BL21] Connections will not be accepted from 192.0.2.1, '
         "because the ip is in Spamhaus's list"),
        ),
    'gmx-listed': (
        ('greeting',
         '554-gmx.net (mxgmx104) Nemesis ESMTP Service not available\n'
         '554-No SMTP service\n'
         '554-IP address is block listed.\n'
         '554 For explanation visit https://postmaster.gmx.net/en/case'),
        ),
    'godaddy-listed': (
        ('greeting',
         '554 Connection refused. This IP address is listed on the Spamhaus '
         'Block List (SBL). IB104'),
        ),
    'godaddy-ptr': (
        ('greeting',
         '421 Temporarily rejected. Reverse DNS for this IP failed. IB108'),
        ),
    'no-ptr': (
        ('rcpt',
         '550 5.7.1 Connections not accepted from servers without a valid '
         'sender domain. Fix reverse DNS for 203.0.113.2'),
        ('rcpt',
         '550 rejected - no rDNS'),
        ('mail',
         '450 4.7.1 Access denied. IP name lookup failed [192.0.2.222]'),
        ),
    'listed': (
        ('rcpt',
         '550 The sending IP (192.0.2.1) is listed on https://spamrl.com. '
         'Please resolve this and retry.'),
        ('rcpt',
         '553 http://www.spamhaus.org/query/bl?ip=192.0.2.222'),
        ),
    'postscreen-refused': (
        ('greeting',
         '521 5.3.2 Service currently unavailable'),
        ),
    'exim-refused': (
        ('greeting',
         '554 SMTP service not available'),
        ),
    'postfix-size': (
        ('mail',
         '552 5.3.4 Message size exceeds fixed limit'),
        ('mail',
         '552 5.3.4 Message size exceeds file system imposed limit'),
        ),
    'postfix-file-size': (
        ('end',
         '552 5.3.4 Error: message file too big'),
        ('end',
         '552 5.3.4 Chunk exceeds message size limit'),
        ),
    'exim-size': (
        ('mail',
         '552 Message size exceeds maximum permitted'),
        ('end',
         '552 Message size exceeds maximum permitted'),
        ),
    'sendmail-size': (
        ('mail',
         '552 5.2.3 Message size exceeds fixed maximum message size '
         '(10485760)'),
        ),
    'exchange-size': (
        ('end',
         '552 5.3.4 Message too big for system'),
        ),
    'google-size': (
        ('end',
         "552-5.3.4 Your message exceeded Google's message size limits.\n"
         '552 5.3.4 - gsmtp'),
        ('end',
         "552-5.2.3 Your message exceeded Google's message size limits.\n"
         '552 5.2.3 - gsmtp'),
        ),
    'qmail-size': (
        ('end',
         '552 sorry, that message size exceeds my databytes limit (#5.3.4)'),
        ),
    'opensmtpd-size': (
        ('end',
         '554 5.3.4 DATA: Transaction failed, message too big'),
        ),
    'too-big': (
        ('end',
         '552 Error: message too large'),
        ('mail',
         '552 Message size exceeds maximum value'),
        ),
    'postfix-content': (
        ('end',
         '550 5.7.1 Message content rejected'),
        ('end',
         '550 5.7.1 Message content rejected, UBE, id=00000-00-000'),
        ),
    'amavis-reject': (
        ('end',
         '554 5.7.0 Reject, id=20025-09 - SPAM'),
        ),
    'exim-headers': (
        ('end',
         '550 Too many "Received" headers - suspected mail loop'),
        ('end',
         '552 A message header line is too long'),
        ),
    'exim-line-length': (
        ('end',
         '550 maximum allowed line length is 998 octets, got 1200'),
        ),
    'too-many-hops': (
        ('end',
         '554 5.4.0 Error: too many hops'),
        ('end',
         '554 5.4.6 Message exceeded 50 hops, this may indicate a mail loop.'),
        ),
    'opensmtpd-rfc2822': (
        ('end',
         '550 5.7.0 DATA: Message is not RFC 2822 compliant'),
        ),
    'google-spam': (
        ('end',
         '550-5.7.1 [192.0.2.22      18] Our system has detected that this '
         'message is likely\n'
         '550 5.7.1 unsolicited mail. - gsmtp'),
        ('end',
         '550-5.7.1 [192.0.2.22] Our system has detected that this message '
         'is\n'
         '550-5.7.1 likely suspicious due to the very low reputation of the '
         'sending domain.\n'
         '550 5.7.1 - gsmtp'),
        ),
    'google-attachment': (
        ('end',
         '552-5.7.0 Our system detected an illegal attachment on your '
         'message. Please\n'
         '552 5.7.0 visit - gsmtp'),
        ('end',
         '552-5.7.0 This message was blocked because its content presents a '
         'potential\n'
         '552 5.7.0 security issue. - gsmtp'),
        ),
    'google-headers': (
        ('end',
         '550-5.7.1 [192.0.2.1] This message is not RFC 5322 compliant. '
         'There\n'
         '550 5.7.1 are multiple From headers. - gsmtp'),
        ('end',
         '554 5.6.0 Mail message is malformed. Not accepted.'),
        ),
    'exchange-headers': (
        ('end',
         '550 5.7.512 Access denied, message must be RFC 5322 section 3.6.2 '
         'compliant'),
        ('end',
         '550 5.6.11 Invalid characters'),
        ),
    'exchange-spam': (
        ('end',
         '550 5.7.501 Access denied, spam abuse detected'),
        ),
    'stalwart-spam': (
        ('end',
         '550 5.7.1 Message rejected due to excessive spam score.'),
        ),
    'stalwart-parse': (
        ('end',
         '550 5.7.7 Failed to parse message.'),
        ),
    'haraka-denied': (
        ('end',
         '550 Message denied'),
        ('end',
         '554 Transaction failed due to too many MIME parts'),
        ),
    'godaddy-spam': (
        ('end',
         '552 This message has been rejected due to content judged to be '
         'spam by the internet community. IB212'),
        ('end',
         '552 Virus infected message rejected. IB705'),
        ),
    'virus': (
        ('end',
         '550 This message contains a virus (Eicar-Test-Signature).'),
        ('end',
         '550 Virus Detected; Content Rejected'),
        ),
    'spam': (
        ('end',
         '550 spam message rejected. Please visit '
         'http://help.mail.ru/notspam-support'),
        ('end',
         '571 5.7.1 message classified as spam'),
        ('end',
         '550 Message rejected as spam'),
        ),
    'policy-content': (
        ('end',
         '554 Message not allowed - Email not accepted for policy reasons.'),
        ('end',
         '550 Mail content denied'),
        ),
    'postfix-recipient-unknown': (
        ('rcpt',
         '550 5.1.1 <anne@example.org>: Recipient address rejected: User '
         'unknown in virtual mailbox table'),
        ('rcpt',
         '450 4.1.1 <anne@example.org>: Recipient address rejected: User '
         'unknown in local recipient table'),
        ),
    'postfix-recipient-unverified': (
        ('rcpt',
         '450 4.1.1 <anne@example.org>: Recipient address rejected: '
         'unverified address: Address verification in progress'),
        ),
    'postfix-recipient-undeliverable': (
        ('rcpt',
         '550 5.1.1 <anne@example.org>: Recipient address rejected: '
         'undeliverable address: host mx.example.org[192.0.2.1] said: 550 '
         '5.1.1 User unknown'),
        ),
    'postfix-recipient-domain': (
        ('rcpt',
         '550 5.1.2 <anne@example.org>: Recipient address rejected: Domain '
         'not found'),
        ('rcpt',
         '556 5.1.10 <anne@example.org>: Recipient address rejected: Domain '
         'example.org does not accept mail (nullMX)'),
        ),
    'exim-unroutable': (
        ('rcpt',
         '550 Unrouteable address'),
        ('rcpt',
         '550 Unknown user'),
        ),
    'exim-recipient-callout': (
        ('rcpt',
         '451 Could not complete recipient verify callout'),
        ),
    'sendmail-unknown': (
        ('rcpt',
         '550 5.1.1 <anne@example.org>... User unknown'),
        ),
    'qmail-no-mailbox': (
        ('rcpt',
         '554 Sorry, no mailbox here by that name. (#5.1.1)'),
        ),
    'google-no-account': (
        ('rcpt',
         '550-5.1.1 The email account that you tried to reach does not '
         'exist. Please try\n'
         '550 5.1.1 double-checking the address. - gsmtp'),
        ('rcpt',
         '550 5.2.1 The email account that you tried to reach is disabled.'),
        ),
    'google-full': (
        ('rcpt',
         "452-4.2.2 The recipient's inbox is out of storage space. Please "
         'direct the\n'
         '452 4.2.2 recipient - gsmtp'),
        ('rcpt',
         '552 5.2.2 The email account that you tried to reach is over quota.'),
        ),
    'exchange-not-found': (
        ('end',
         '550 5.1.10 RESOLVER.ADR.RecipientNotFound; Recipient not found by '
         'SMTP address lookup'),
        ),
    'outlook-unavailable': (
        ('rcpt',
         '550 5.5.0 Requested action not taken: mailbox unavailable.'),
        ),
    'mailbox-unavailable': (
        ('rcpt',
         '550 Requested action not taken: mailbox unavailable'),
        ('rcpt',
         '450 Requested mail action not taken: mailbox unavailable'),
        ),
    'yahoo-no-account': (
        ('end',
         "554 delivery error: dd This user doesn't have a yahoo.com account "
         '(anne@yahoo.com) [0]'),
        ('rcpt',
         '552 1 Requested mail action aborted, mailbox not found'),
        ),
    'haraka-recipient': (
        ('rcpt',
         '550 I cannot deliver mail for <anne@example.org>'),
        ),
    'orange-recipient': (
        ('rcpt',
         '550 5.1.1 Adresse d au moins un destinataire invalide. Invalid '
         'recipient. OFR_416 [416]'),
        ('rcpt',
         '550 5.5.0 Le compte du destinataire est bloque. The recipient '
         'account is blocked.'),
        ),
    'opensmtpd-recipient': (
        ('rcpt',
         '550 5.1.1 Invalid recipient: <anne@example.org>'),
        ('rcpt',
         '550 Invalid recipient: <anne@example.org>'),
        ),
    'stalwart-recipient': (
        ('rcpt',
         '550 5.1.2 Mailbox does not exist.'),
        ),
    'mailru-recipient': (
        ('rcpt',
         '550 Message was not accepted -- invalid mailbox. Local mailbox '
         'anne@mail.ru is unavailable: user not found'),
        ),
    'disabled': (
        ('rcpt',
         '550 5.2.1 Mailbox disabled for this recipient'),
        ('rcpt',
         '550 Mailbox is frozen. See http://mail.i.ua/err/3/'),
        ('rcpt',
         '554 This account has been disabled or discontinued'),
        ),
    'disabled-recipient': (
        ('rcpt',
         '525 5.7.13 Disabled recipient address'),
        ),
    'full': (
        ('rcpt',
         '452 4.2.2 Mailbox full'),
        ('rcpt',
         '552 5.2.2 Over quota'),
        ('end',
         '552 5.2.2 <anne@example.org> Quota exceeded'),
        ),
    'godaddy-full': (
        ('rcpt',
         '552 Account storage limit exceeded'),
        ),
    'no-such-user': (
        ('rcpt',
         '550 No such user here'),
        ('rcpt',
         '550 User not found'),
        ('rcpt',
         '550 user unknown'),
        ('rcpt',
         '550 anne@example.com... No such user'),
        ('rcpt',
         '550 Unknown local part anne in <anne@example.org>'),
        ),
    'no-such-mailbox': (
        ('rcpt',
         '550 5.1.1 Mailbox does not exist'),
        ('rcpt',
         '550 Recipient not found'),
        ('rcpt',
         '550 The email address does not exist'),
        ),
    'not-our-customer': (
        ('rcpt',
         '551 not our customer'),
        ('rcpt',
         '551 not our user'),
        ),
    'words-quota': (
        ('end',
         '451 4.7.1 Hourly sending limit of 200 exceeded'),
        ('rcpt',
         '550 Your monthly quota is used up'),
        ),
    'words-quota-after': (
        ('rcpt',
         '554 You have reached the limit of messages per hour'),
        ('mail',
         '452 Sending quota exceeded for this month'),
        ),
    'words-rate': (
        ('rcpt',
         '451 Slow down, please'),
        ('end',
         '450 Too many messages'),
        ('mail',
         '421 4.7.0 You have been throttled'),
        ('rcpt',
         '451 please try again slower'),
        ),
    'words-454': (
        ('mail',
         '454 4.3.0 Try again later'),
        ('end',
         '454 Please wait'),
        ),
    'words-full': (
        ('rcpt',
         '552 Mailbox full'),
        ('rcpt',
         '450 Mailbox is full / Blocks limit exceeded'),
        ('rcpt',
         '550 recipient is over quota'),
        ),
    }
