# SPDX-License-Identifier: GPL-3.0-or-later

"""Whatever leaks a secret, on purpose here, is found out."""

import sys
import json
import base64
import logging
import unittest
import subprocess

from contextlib import suppress
from mailman.config import config
from mailman_mta_pool.connection.translation import translated
from mailman_mta_pool.deliver import deliver
from mailman_mta_pool.demo.process import ROOT
from mailman_mta_pool.secret import Secret
from pathlib import Path
from tempfile import TemporaryDirectory
from tests.scripted import Scripted
from tests.site_case import SiteTestCase


PASSWORD = 'Tr0mbone-Zebra'
TOKEN = 'ya29.Zebra-Tr0mbone'
RESPONSE = base64.b64encode(f'\0ant\0{PASSWORD}'.encode()).decode()
log = logging.getLogger('mailman.smtp')
# A module with a test for each way out of a process.
LEAKING = f"""\
import logging
import unittest

from contextlib import suppress
from mailman_mta_pool.errors import TokenUnavailable
from mailman_mta_pool.secret import Secret


log = logging.getLogger('mailman.smtp')


class TestLeaking(unittest.TestCase):
    def setUp(self):
        self.secret = Secret({PASSWORD!r})

    def test_logged(self):
        log.debug('AUTH PLAIN %s', {RESPONSE!r})

    def test_raised(self):
        with suppress(TokenUnavailable):
            raise TokenUnavailable(self.secret.reveal())

    def test_traceback(self):
        try:
            raise KeyError(self.secret.reveal())
        except KeyError:
            logging.getLogger('elsewhere').exception('failed')

    def test_hidden(self):
        log.error('%s', self.secret)
"""


def leaking(mlist, msg, msgdata):
    """Deliver, and leak in each way that a runner could."""
    Secret(TOKEN)
    if msgdata.get('leaks'):
        log.error('the password is %s', PASSWORD)
        log.debug('AUTH PLAIN %s', RESPONSE)
        print(PASSWORD.encode().hex(), flush=True)
        with suppress(OSError), translated('relay', 'AUTH'):
            raise OSError(TOKEN)
        path = Path(config.VAR_DIR, 'mta_pool', 'state', 'a.json')
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({'token': TOKEN}))
    return deliver(mlist, msg, msgdata)


class TestRunner(SiteTestCase):
    def leaks(self, **msgdata):
        """Let a runner leak, and return what is found at the end."""
        site = self.site(
            self.use(Scripted(extensions=('AUTH PLAIN',))),
            outgoing='tests.fault.leaks.leaking', smtp_user='ant',
            smtp_pass=PASSWORD)
        site.post(**msgdata, queue='retry')
        site.run(msgdata)
        try:
            site.close()
        except AssertionError as error:
            found = str(error)
        else:
            found = ''
        self.assertFalse(site.directory.exists())
        return found

    def test_each(self):
        found = self.leaks(leaks=True, token=TOKEN)
        lines = found.splitlines()
        for words in (
                ('/var/logs/smtp.log:', 'configuration, as it is'),
                ('mailman.smtp: ', 'leaks.py', 'in base64'),
                ('/runner-out.txt:', 'in hex'),
                ('RelayUnavailable of ', 'translation.py', 'as it is'),
                ('/state/a.json:1: ', 'tests/fault/leaks.py:'),
                ('/queue/retry/', '.pck:')):
            with self.subTest(words=words):
                self.assertTrue(any(
                    all(word in line for word in words) for line in lines),
                    found)
        for secret in PASSWORD, TOKEN:
            self.assertNotIn(secret, found)

    def test_none(self):
        self.assertEqual(self.leaks(), '')


class TestRepeated(SiteTestCase):
    """A server lets us in, and then says what we logged in with."""

    def play(self, *replies):
        """Let a server answer the RCPTs so, and return what is logged."""
        def script(command, session):
            if command.startswith('RCPT'):
                return replies[len(server.said('RCPT')) % len(replies)]
        server = self.use(Scripted(
            script, extensions=('PIPELINING', 'AUTH PLAIN')))
        site = self.site(server, members=4, smtp_user='ant',
                         smtp_pass=PASSWORD)
        site.run({'verp': True})
        self.assertTrue(server.said('AUTH'))
        # The post goes on, and at the end all is searched.
        site.close()

    def test_replies(self):
        self.play(f'451 4.3.0 Your password is {PASSWORD}',
                  f'550 5.1.1 {RESPONSE}',
                  f'550-5.7.1 No\r\n550 5.7.1 {PASSWORD.encode().hex()}',
                  f'250 Ok {PASSWORD}')

    def test_no_reply(self):
        self.play(f'{PASSWORD} Ok')


class TestRun(unittest.TestCase):
    def test_each(self):
        with TemporaryDirectory() as directory:
            Path(directory, 'leaking.py').write_text(LEAKING)
            done = subprocess.run(
                [sys.executable, '-m', 'nose2', '-v', '-s', directory,
                 '-c', str(ROOT / 'unittest.cfg'), 'leaking'],
                cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT, text=True, timeout=60)
        self.assertEqual(done.returncode, 1, done.stdout)
        self.assertIn('FAILED (failures=2)', done.stdout)
        _, records, exceptions = done.stdout.split(' times a secret was found')
        for told, names in ((records, ('test_logged', 'test_traceback')),
                            (exceptions, ('test_raised',))):
            lines = [line for line in told.splitlines()
                     if 'the secret of' in line]
            self.assertEqual(len(lines), len(names), told)
            for line, name in zip(lines, names):
                self.assertIn(f'in leaking.TestLeaking.{name}:', line)
                self.assertNotIn('Zebra', line)
