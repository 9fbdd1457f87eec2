# SPDX-License-Identifier: GPL-3.0-or-later

"""What an answer means: the table of the design, row by row."""

from tests.fault.cases import always, Cases, CaseTestCase, on, several
from tests.scripted import CLOSE


CASES = Cases()
DENIED = '554 5.7.1 Relay access denied'
# Half a reply: the message is taken, and nobody is told.
HALF = b'250 2.0.0 Ok: que'


# RCPT 5xx (not 552).

@CASES(bounced='dead', served='anne bart')
def rcpt_5xx():
    return always('RCPT', '550 5.1.1 No such ant', 'dead')


@CASES(verp=True, bounced='dead', served='anne bart')
def rcpt_5xx_verp():
    return always('RCPT', '551 5.1.6 She has moved', 'dead')


@CASES(bounced='anne bart carl')
def rcpt_5xx_all():
    return always('RCPT', '550 5.1.1 No such ant')


# The relay refuses us.

@CASES(retry='anne bart@b carl@c dora')
def denied_to_all():
    return always('RCPT', DENIED)


@CASES(verp=True, retry='anne bart@b carl@c dora')
def denied_to_all_verp():
    return always('RCPT', '550 5.7.1 Not from this network')


@CASES(retry='anne bart carl')
def authentication_required():
    return always('RCPT', '530 5.7.0 Authentication required')


@CASES(verp=True, retry='anne')
def authentication_required_of_one():
    return always('RCPT', '530 5.7.0 Authentication required')


@CASES(retry='anne bart')
def authentication_required_for_mail():
    return always('MAIL', '530 5.7.0 Must issue a STARTTLS command first')


@CASES(retry='dead', served='anne bart@b carl@c')
def denied_to_one():
    return always('RCPT', DENIED, 'dead')


@CASES(verp=True, retry='dead@b', served='anne bart@b carl@c')
def authentication_required_once():
    # Whatever the server means, the others are not to wait for it.
    return always('RCPT', '530 5.7.0 Authentication required', 'dead')


@CASES(retry='anne bart carl dora')
def denied_in_one_domain():
    return always('RCPT', DENIED)


@CASES(retry='anne bart@b')
def denied_to_two():
    return always('RCPT', DENIED)


# RCPT 4xx, 552.

@CASES(retry='late', served='anne bart')
def rcpt_4xx():
    return always('RCPT', '450 4.2.1 Come back', 'late')


@CASES(verp=True, retry='late', served='anne bart')
def rcpt_4xx_verp():
    return always('RCPT', '451 4.3.0 Not now', 'late')


@CASES(retry='anne', served='bart carl')
def rcpt_552():
    return always('RCPT', '552 5.2.2 Mailbox full', 'anne')


@CASES(retry='late', bounced='dead', served='anne')
def rcpt_4xx_beside_5xx():
    return several(always('RCPT', '450 4.2.1 Come back', 'late'),
                   always('RCPT', '550 5.1.1 No such ant', 'dead'))


@CASES(verp=True, retry='late', bounced='dead', served='anne')
def rcpt_4xx_beside_5xx_verp():
    return rcpt_4xx_beside_5xx()


# 421, or a lost connection, before the content's end was sent.

@CASES(served='anne bart carl dora')
def rcpt_421():
    return on('RCPT', '421 4.3.2 Shutting down', at=3)


@CASES(served='anne bart carl')
def mail_421():
    return on('MAIL', '421 4.3.2 Shutting down')


@CASES(verp=True, served='anne bart carl')
def data_421_verp():
    return on('DATA', '421 4.3.2 Shutting down', at=2)


@CASES(verp=True, served='anne bart carl')
def rcpt_lost_verp():
    return on('RCPT', CLOSE, CLOSE)


@CASES(retry='bart', served='anne carl')
def rcpt_421_always():
    return always('RCPT', '421 4.3.2 Shutting down', 'bart')


@CASES(verp=True, retry='bart', served='anne carl')
def rcpt_lost_always_verp():
    return always('RCPT', CLOSE, 'bart')


# The connection is lost after the content's end, before its reply.

@CASES(verp=True, retry='bart', served='anne carl')
def in_doubt_verp():
    return always('.', CLOSE, 'bart')


@CASES(retry='anne bart carl')
def in_doubt():
    return on('.', CLOSE)


# MAIL or end-of-data 4xx.

@CASES(retry='anne bart')
def mail_4xx():
    return on('MAIL', '451 4.3.0 Not now')


@CASES(verp=True, served='anne bart carl')
def mail_4xx_verp():
    return always('MAIL', '450 4.1.8 No such domain', 'bart')


@CASES(retry='anne bart')
def end_4xx():
    return on('.', '452 4.3.1 Insufficient system storage')


@CASES(verp=True, retry='bart', served='anne carl')
def end_4xx_verp():
    return always('.', '450 4.7.1 Greylisted', 'bart')


@CASES(verp=True, retry='bart', served='anne carl')
def end_421_verp():
    # It is an answer: there is no doubt about it.
    return always('.', '421 4.3.2 Shutting down', 'bart')


# MAIL 5xx to a VERP'd sender.

@CASES(verp=True, served='anne bart carl')
def mail_5xx_verp():
    return always('MAIL', '553 5.1.7 Local part too long', 'bart')


@CASES(verp=True, retry='anne bart carl')
def mail_5xx_plain_too():
    return always('MAIL', '550 5.7.1 Go away')


# The message was rejected.

@CASES(retry='anne bart')
def mail_5xx():
    return always('MAIL', '550 5.1.8 Bad sender')


@CASES(shunt='anne bart carl')
def end_5xx():
    return always('.', '554 5.6.0 Virus')


@CASES(shunt='anne bart', bounced='dead', retry='late')
def end_5xx_for_some():
    return several(always('RCPT', '450 4.2.1 Come back', 'late'),
                   always('RCPT', '550 5.1.1 No such ant', 'dead'),
                   always('.', '554 5.6.0 Virus'))


@CASES(verp=True, shunt='anne bart carl dora emma')
def end_5xx_verp():
    return always('.', '554 5.6.0 Virus')


@CASES(verp=True, shunt='anne bart')
def end_5xx_few_verp():
    return always('.', '554 5.6.0 Virus')


@CASES(shunt='anne bart')
def mail_552():
    return always('MAIL', '552 5.3.4 Too big')


@CASES(verp=True, shunt='anne bart')
def mail_552_verp():
    return always('MAIL', '552 5.3.4 Too big')


@CASES(shunt='anne bart')
def end_552():
    return on('.', '552 5.3.4 Too big')


@CASES(verp=True, shunt='anne')
def end_552_verp():
    return always('.', '552 5.3.4 Too big')


# End-of-data 5xx of a transaction with one recipient.

@CASES(verp=True, bounced='bart',
       served=' '.join(f'carl{number}' for number in range(30)))
def end_5xx_for_one():
    # Some are accepted afterwards, over however many connections.
    return always('.', '550 5.7.1 She does not like ants', 'bart')


# No RFC 5321 mailbox, no SMTPUTF8.

@CASES(verp=True, bounced='zoë', served='anne')
def not_ascii_verp():
    return always('NOOP', None)


@CASES(bounced='zoë', served='anne')
def not_ascii():
    return always('NOOP', None)


# A reply code outside 200 to 599.

@CASES(served='anne bart')
def rcpt_999():
    return on('RCPT', '999 5.1.1 What?')


@CASES(verp=True, served='anne bart')
def data_199_verp():
    return on('DATA', '199 5.1.1 What?')


# Too many recipients.  These are the last ones, for the limit stays.

@CASES(served='anne bart carl dora emma')
def too_many_452():
    return _at_most(3, '452 4.5.3 Too many recipients')


@CASES(served='anne bart carl dora emma')
def too_many_552():
    return _at_most(2, '552 Too many recipients')


@CASES(retry='anne bart carl dora emma')
def too_many_always():
    return always('RCPT', '452 4.5.3 Too many recipients')


def _at_most(number, reply):
    def script(command, session):
        if command.startswith('RCPT') and len(session.recipients) >= number:
            return reply
    return script


class TestAnswers(CaseTestCase):
    # 421 and lost connections are not what takes the time.
    settings = {'delivery': {'patience': '2s'}}

    def test_data(self):
        site, server = self.play(CASES, settings=self.settings)
        self.assertSaid(site, (
            (9, 'The mail server does not take mail from us: '),
            (8, 'The mail server rejects <post@example.com>: '),
            (1, '1 recipients are tried again later, though they may'),
            (1, '3 recipients are tried again later, though they may')))
        # The plain sender stood in for the one that was refused, only there.
        self.assertEqual(
            {recipient: message.sender for message in server.accepted
             for recipient in message.recipients
             if 'mail-5xx-verp' in recipient},
            {'anne@mail-5xx-verp.example.com':
             'mail-5xx-verp+anne=mail-5xx-verp.example.com@example.com',
             'bart@mail-5xx-verp.example.com': 'mail-5xx-verp@example.com',
             'carl@mail-5xx-verp.example.com':
             'mail-5xx-verp+carl=mail-5xx-verp.example.com@example.com'})

    def test_bdat(self):
        # Whatever is in flight when the connection breaks has been sent to
        # its end, and is in doubt: see tests/fault/connections.py.
        cases = CASES.without(
            'rcpt-lost-verp', 'rcpt-lost-always-verp', 'in-doubt-verp',
            'rcpt-999', 'data-199-verp')
        site, server = self.play(
            cases, settings=self.settings,
            extensions=('PIPELINING', 'CHUNKING'))
        self.assertTrue(server.said('BDAT'))

    def assertSaid(self, site, lines):
        """The log says why somebody was not served."""
        log = site.log('smtp.log')
        self.assertEqual(
            [(log.count(line), line) for times, line in lines],
            list(lines))
