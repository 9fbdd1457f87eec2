# SPDX-License-Identifier: GPL-3.0-or-later

"""Connections that break, or stall, in the middle of the dialogue."""

from tests.fault.cases import always, ANEW, Cases, CaseTestCase, HASTY, on
from tests.scripted import CLOSE, HANG, Scripted
from tests.site import POST


UNAVAILABLE = 'Mail server unavailable: '
MANY = ' '.join(f'ant-{number:02}' for number in range(40))
# More than the kernel takes off our hands.
BIG = POST + (b'Ants are strong, and many. ' * 30 + b'\n') * 25_000


# Connections that break, once.

BREAKING = Cases()


@BREAKING(served=MANY)
def close_at_the_banner():
    return on('CONNECT', CLOSE)


@BREAKING(verp=True, served=MANY)
def refused_at_the_banner_verp():
    return on('CONNECT', '421 4.3.2 No', '421 4.3.2 Not yet')


@BREAKING(served=MANY)
def close_during_ehlo():
    return on('EHLO', CLOSE, CLOSE)


@BREAKING(verp=True, served=MANY)
def close_during_ehlo_verp():
    return on('EHLO', CLOSE, CLOSE)


@BREAKING(served=MANY)
def close_in_mid_rcpt():
    return on('RCPT', CLOSE, at=7)


@BREAKING(verp=True, served=MANY)
def close_in_mid_rcpt_verp():
    return on('RCPT', CLOSE, at=7)


@BREAKING(served=MANY)
def close_in_mid_reply():
    return on('RCPT', b'250-2.1.5 Ok\r\n250 2.1', '421 4.3.2 Bye')


@BREAKING(verp=True, served='anne bart carl', content=BIG)
def close_in_mid_content_verp():
    return on('CONTENT', CLOSE, CLOSE)


@BREAKING(served='anne bart carl', content=BIG)
def close_in_mid_content():
    return on('CONTENT', CLOSE)


@BREAKING(retry='anne bart carl')
def close_after_the_dot():
    # One transaction has them all.
    return on('.', CLOSE)


@BREAKING(verp=True, retry='ant-07', served=MANY.replace('ant-07', ''))
def close_after_the_dot_verp():
    return always('.', CLOSE, 'ant-07')


@BREAKING(served=MANY)
def a_421_at_the_fourth_rcpt():
    return on('RCPT', '421 4.7.0 Enough', at=4)


@BREAKING(verp=True, served=MANY)
def a_421_at_the_fourth_rcpt_verp():
    return on('RCPT', '421 4.7.0 Enough', at=4)


@BREAKING(verp=True, served=MANY)
def a_421_after_20_transactions_verp():
    def script(command, session):
        if command.startswith('MAIL'):
            session.mails = getattr(session, 'mails', 0) + 1
            if session.mails > 20:
                return '421 4.7.0 Enough for one connection'
    return script


# Connections that stall, each of them; and nobody knows for how long.

STALLING = Cases()


def _stalling(verb, **ends):
    def make():
        return always(verb, HANG)
    make.__name__ = f'{verb.lower()}_{"verp" if ends.get("verp") else "bulk"}'
    STALLING(**ends)(make)


for _verb in ('CONNECT', 'EHLO', 'MAIL', 'RCPT', 'DATA'):
    _stalling(_verb, retry=MANY)
    _stalling(_verb, retry=MANY, verp=True)


@STALLING(retry='anne bart carl', content=BIG)
def in_mid_content():
    # The server stops reading.
    return always('CONTENT', HANG)


@STALLING(retry=MANY)
def at_the_dot():
    return always('.', HANG)


@STALLING(retry=MANY, verp=True)
def at_the_dot_verp():
    return always('.', HANG)


# Connections of which one stalls; the others do the work.

STALLING_ONCE = Cases()


@STALLING_ONCE(verp=True, served=MANY)
def once_at_ehlo():
    return on('EHLO', HANG)


@STALLING_ONCE(verp=True, served=MANY)
def once_at_mail():
    return on('MAIL', HANG)


@STALLING_ONCE(served=MANY)
def once_at_rcpt():
    return on('RCPT', HANG, at=5)


@STALLING_ONCE(verp=True, served=MANY)
def once_at_data():
    return on('DATA', HANG)


@STALLING_ONCE(verp=True, served='anne bart carl dora', content=BIG)
def once_in_mid_content():
    return on('CONTENT', HANG)


@STALLING_ONCE(verp=True, retry='ant-20', served=MANY.replace('ant-20', ''))
def once_at_the_dot():
    return always('.', HANG, 'ant-20')


class TestBreaking(CaseTestCase):
    def test_breaking(self):
        self.play(BREAKING, one_by_one=True, settings=ANEW,
                  max_delivery_threads=2)

    def test_bdat(self):
        # Those in flight may have got it: they wait, and nobody else does.
        depth = 4

        def script(command, session):
            if command.startswith('BDAT'):
                session.chunks = getattr(session, 'chunks', 0) + 1
                if session.chunks == 10 and session.number <= 2:
                    return CLOSE
        server = self.use(Scripted(
            script, extensions=('PIPELINING', 'CHUNKING')))
        site = self.site(
            server, members=100, max_delivery_threads=2,
            settings={'delivery': {'pipeline_depth': depth}})
        site.run({'verp': True})
        self.assertEachOnce(site, server.served, ['retry'])
        self.assertIn(len(site.waiting()['retry']), range(1, 2 * depth + 1))
        self.assertQuiet(site)

    def test_never_an_answer_to_the_dot(self):
        # Each one of them may have got it, so it does not go on for ever.
        def script(command, session):
            if command == '.':
                lost.append(session.recipients)
                return CLOSE
        lost = []
        server = self.use(Scripted(script))
        site = self.site(server, members=200, settings=ANEW,
                         max_delivery_threads=2)
        site.run({'verp': True})
        self.assertEachOnce(site, server.served, ['retry'])
        self.assertIn(UNAVAILABLE, site.log('smtp.log'))
        self.assertLess(len(lost), 20)


class TestStalling(CaseTestCase):
    threads = 4

    def test_each_connection(self):
        settings = {'relay.mta': HASTY, 'delivery': {'patience': 0},
                    'pool': {'idle_timeout': 0}}
        site, server = self.play(
            STALLING, one_by_one=True, settings=settings,
            max_recipients=5,
            max_delivery_threads=self.threads)
        log = site.log('smtp.log')
        self.assertEqual(log.count(UNAVAILABLE), len(STALLING.cases))
        # Each post has cost one timeout, not one for each chunk.
        self.assertLessEqual(
            server.connections, self.threads * len(STALLING.cases))

    def test_one_of_them(self):
        settings = {'relay.mta': HASTY, 'delivery': {'patience': '2s'},
                    'pool': {'idle_timeout': 0}}
        self.play(STALLING_ONCE, one_by_one=True, settings=settings,
                  max_recipients=5, max_delivery_threads=self.threads)
