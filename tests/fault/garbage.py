# SPDX-License-Identifier: GPL-3.0-or-later

"""What is not SMTP, and replies to nothing: nobody is to bounce for that."""

from itertools import product
from tests.fault.cases import always, ANEW, Cases, CaseTestCase, HASTY, on
from tests.scripted import Scripted


# What the server says instead of its reply, or besides it.
INSTEAD = {
    'garbage': b'\xff\xfe\0\x1b[2J garbage\r\n',
    'html': b'HTTP/1.1 400 Bad Request\r\n\r\n<html>550 5.1.1</html>\r\n',
    'endless': b'550-5.1.1 and so on\r\n' * 50_000,
    'over-long': b'550 5.1.1 ' + b'x' * 100_000 + b'\r\n',
    'never-ending-line': b'550 5.1.1 ' + b'x' * 1_000_000,
    'nul': b'550 5.1.1 No\0such ant\r\n',
    'code-999': b'999 5.1.1 What?\r\n',
    'changing-code': b'550-5.1.1 No such ant\r\n250 2.0.0 Ok\r\n',
    'another-phase': b'354 Go ahead\r\n334 \r\n220 Hello\r\n',
    }
PHASES = ('CONNECT', 'EHLO', 'MAIL', 'RCPT', 'DATA', '.')
# The usual replies, for those that come with another one.
USUAL = {
    'CONNECT': b'220 scripted.example.net ESMTP\r\n',
    'EHLO': b'250-scripted.example.net\r\n250 PIPELINING\r\n',
    'MAIL': b'250 2.1.0 Ok\r\n',
    'RCPT': b'250 2.1.5 Ok\r\n',
    'DATA': b'354 Go ahead\r\n',
    '.': b'250 2.0.0 Ok: queued\r\n',
    }
NAMES = 'anne bart carl dora emma fred'
SETTINGS = {**ANEW, 'relay.mta': HASTY}


def _add(cases, name, verb, answer, *replies, **ends):
    """Add a case: a command is answered so."""
    def make():
        return answer(verb, *replies)
    make.__name__ = f'{name}-{verb.lower()}'.replace('.', 'dot')
    cases(**ends)(make)


ONCE, ALWAYS, EXTRA = Cases(), Cases(), Cases()
for _verb in PHASES:
    for _name, _reply in INSTEAD.items():
        if _verb == 'DATA' and _name == 'another-phase':
            # That is what it is to say.
            continue
        # The second transaction is the one, if it is one; the first has been
        # accepted.
        _turns = ([_reply] if _verb in ('CONNECT', 'EHLO')
                  else [None, _reply])
        _waiting = {'retry': 'bart', 'served': NAMES.replace('bart', '')}
        _add(ONCE, _name, _verb, on, *_turns, verp=True, **(
            _waiting if _verb == '.' else {'served': NAMES}))
        _add(ALWAYS, _name, _verb, always, _reply, retry=NAMES)
    for _extra in (b'250 2.0.0 Extra\r\n', b'220 Extra\r\n',
                   b'250-scripted.example.net\r\n250 PIPELINING\r\n',
                   b'550 5.1.1 Extra\r\n', b'554 5.7.1 Extra\r\n'):
        _add(EXTRA, f'extra-{len(EXTRA.cases)}', _verb, on, None,
             USUAL[_verb] + _extra, verp=True, served=NAMES)


class TestGarbage(CaseTestCase):
    def test_once(self):
        # Whoever was being served then, is served over another connection.
        self.play(ONCE, one_by_one=True, settings=SETTINGS,
                  max_delivery_threads=1)

    def test_always(self):
        # The server is not fit for use; that is no member's fault.
        site, server = self.play(
            ALWAYS, one_by_one=True, max_delivery_threads=1,
            settings={**SETTINGS, 'delivery': {'patience': 0}})
        self.assertEqual(server.accepted, [])

    def test_bdat(self):
        cases = Cases()
        # CHUNKING has to be seen at work before it is relied on.
        _add(cases, 'nothing', 'NOOP', on, served='zoe')
        cases.cases.update(
            (name, case) for name, case in ALWAYS.cases.items()
            if name.endswith(('-mail', '-rcpt', '-dot')))
        site, server = self.play(
            cases, one_by_one=True, max_delivery_threads=1,
            extensions=('PIPELINING', 'CHUNKING'),
            settings={**SETTINGS, 'delivery': {'patience': 0}})
        self.assertEqual(server.said('DATA'), [])
        self.assertEqual(len(server.accepted), 1)

    def test_extra(self):
        # Each answer is taken for that of the next command, until that makes
        # no sense.
        self.play(EXTRA, one_by_one=True, settings=SETTINGS,
                  max_delivery_threads=1)

    def test_extra_refusals_of_bdat(self):
        # What may have arrived is tried again later: nobody bounces.
        names = [f'{name}@example.com' for name in NAMES.split()]
        for verb, verp in product(('MAIL', 'RCPT', 'BDAT'), (True, False)):
            usual = USUAL['.' if verb == 'BDAT' else verb]
            with self.subTest(verb=verb, verp=verp), Scripted(
                    on(verb, usual + b'550 5.1.1 Extra\r\n', at=3),
                    extensions=('PIPELINING', 'CHUNKING')) as server:
                site = self.site(
                    server, members=[(name, '') for name in names],
                    settings=SETTINGS, max_delivery_threads=1,
                    max_recipients=2)
                site.post(verp=verp, recipients=set(names))
                with site.runner():
                    site.wait_until_empty()
                self.assertEqual(site.bounced(), [])
                waiting = site.waiting()
                self.assertLessEqual(set(waiting), {'retry'})
                self.assertEqual(
                    {*server.served, *waiting.get('retry', ())}, set(names))
