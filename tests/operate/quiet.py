# SPDX-License-Identifier: GPL-3.0-or-later
"""What a healthy run logs, and how our lines read among all others."""

import re

from mailman_mta_pool.demo.process import Child
from mailman_mta_pool.demo.site import RUNNER
from subprocess import DEVNULL
from tests.fault.rounds import numbered
from tests.scripted import Scripted
from tests.site_case import SiteTestCase


# With the level and the logger, which Mailman leaves out by default.
FORMAT = '%(asctime)s (%(process)d) {levelname=%(levelname)s} %(name)s ' \
    '%(message)s'
LOGGERS = ('bounce', 'config', 'database', 'debug', 'error', 'http', 'locks',
           'plugins', 'runner', 'smtp', 'task')
ALARMING = re.compile(r'\{levelname=(?:WARNING|ERROR|CRITICAL)\}.*')
# What every record of Mailman's begins with.
BEGINNING = re.compile(r'[A-Z][a-z]{2} \d{2} \d\d:\d\d:\d\d \d{4} \(\d+\) ')
# Of several lines, with what a terminal would take for a command.
REFUSAL = '550 5.1.1 No such user here\n550 5.1.1 \x1b[2J nor anywhere'
CLOSING = '421 4.3.2 Shutting down\n421 4.3.2 for a while'


def sections(**values):
    """Return sections of mailman.cfg that set the same for every logger."""
    lines = '\n'.join(f'{key}: {value}' for key, value in values.items())
    return '\n'.join(f'[logging.{name}]\n{lines}\n' for name in LOGGERS)


class TestHealthy(SiteTestCase):
    """Nothing at warning or above."""

    def runs(self, script=lambda command, session: None, **options):
        """Let a real runner deliver two posts, and return all that is said.

        :param script: See `Scripted`.
        :param options: Of the `Site`.
        """
        server = self.use(Scripted(script, extensions=(
            'PIPELINING', 'SIZE 0', '8BITMIME', 'CHUNKING',
            'ENHANCEDSTATUSCODES')))
        site = self.site(server, extra=sections(format=FORMAT), **options)
        site.run({}, {'verp': True})
        self.assertEqual(
            sorted(server.served), sorted(2 * site.members))
        self.assertQuiet(site)
        return site.logs()

    def test_nothing_alarming(self):
        for options in ({}, {'plugin': False}, {'settings': {
                'delivery': {'journal': 'power', 'time_slice': '1s'}}}):
            with self.subTest(options):
                said = self.runs(**options)
                # The levels are there, and so are our lines.
                self.assertIn('{levelname=INFO} mailman.smtp <post@', said)
                self.assertEqual(ALARMING.findall(said), [])

    def test_stopped_and_started(self):
        server = self.use(Scripted())
        site = self.site(server, extra=sections(format=FORMAT))
        for number in range(2):
            with site.runner():
                site.post(numbered(number))
                server.wait_for(lambda server: any(
                    b'Post number %d' % number in message.content
                    for message in server.accepted))
        self.assertEqual(ALARMING.findall(site.logs()), [])

    def test_the_test_would_notice(self):
        def script(command, session):
            if command == 'CONNECT':
                return '554 5.7.1 Not you'
        server = self.use(Scripted(script))
        site = self.site(server, extra=sections(format=FORMAT))
        site.run({})
        self.assertIn('Mail server unavailable',
                      ''.join(ALARMING.findall(site.logs())))


class TestOnePlace(SiteTestCase):
    """All of it still reads where the logs are one file, or standard error."""

    def made(self, extra):
        """Make a site whose server refuses somebody and is shut down once.

        :param extra: Sections of mailman.cfg.
        :return: The site and the server.
        """
        lost = []

        def script(command, session):
            if command == 'DATA' and not lost:
                lost.append(command)
                return CLOSING
            if command.startswith('RCPT') and site.members[3] in command:
                return REFUSAL
        server = self.use(Scripted(script))
        site = self.site(server, extra=extra)
        site.post()
        return site, server

    def assertReads(self, lines, site, server):
        """Our lines are whole, and say what they are about."""
        self.assertEqual(
            [line for line in lines
             if not BEGINNING.match(line) or not line.isprintable()], [])
        ours = [BEGINNING.sub('', line) for line in lines
                if 'post@example.com' in line or str(server.port) in line]
        relay = f'{server.host}:{server.port}'
        for beginning in (
                '<post@example.com> smtp to ant@example.com for ',
                '<post@example.com> post to ant@example.com from ',
                f'<post@example.com> delivery to {site.members[3]} failed '
                'with code 550, ', f'{relay}: the server closes: 421 '):
            self.assertEqual(
                sum(line.startswith(beginning) for line in ours), 1,
                (beginning, lines))

    def test_one_file(self):
        site, server = self.made(sections(path='mailman.log'))
        site.run()
        self.assertEqual(site.log('smtp.log'), '')
        lines = site.log('mailman.log').splitlines()
        self.assertReads(lines, site, server)
        # Mailman's own are among them.
        self.assertIn('out runner started.', '\n'.join(lines))

    def test_standard_error(self):
        site, server = self.made(sections(path='/dev/stderr'))
        site.run()
        self.assertEqual(site.log('smtp.log'), '')
        self.assertReads(site.said().splitlines(), site, server)

    def test_standard_error_as_well(self):
        site, server = self.made('')
        with open(site.directory / 'runner-out.txt', 'ab') as said:
            runner = Child(
                '-c', RUNNER, '-C', str(site.configuration), '-r', 'out',
                '--verbose', stdin=DEVNULL, stdout=said, stderr=said,
                cwd=site.directory)
        self.addCleanup(runner.kill)
        site.wait_for(lambda: site.is_empty('out'), 'the delivery')
        runner.stop()
        self.assertReads(site.log('smtp.log').splitlines(), site, server)
        # Mailman says everything twice there.
        self.assertReads(sorted(set(site.said().splitlines())), site, server)
