# SPDX-License-Identifier: GPL-3.0-or-later

"""Mistakes in the configuration, at the start and while Mailman runs.

The processes are Mailman's own: runners, the master and the commands.
"""

import os
import signal

from tests.configuration.mistakes import MISTAKES as MISTAKES_OF_RELAYS
from tests.scripted import HANG, Scripted
from tests.site import SiteError
from tests.site_case import SiteTestCase


BY_CHUNKS = 'PIPELINING', 'CHUNKING', 'SIZE 0', '8BITMIME'
# The only setting of the file.  Whether a post came with DATA or with BDAT
# shows whether it is in force.
WITH_DATA = '[relay.mta]\nchunking: no\n'
# The first content on a connection that was kept goes by DATA in any case.
WITH_BDAT = '[relay.mta]\nchunking: auto\n[pool]\nidle_timeout: 0\n'
BAD = '[delivery]\natempts: 3\n'
HELD = 'the last good settings hold'
ADOPTED = 'has changed, and its settings are in force'


class ConfigurationTestCase(SiteTestCase):
    def edited_site(self, server=None, settings=WITH_DATA, **options):
        """A site whose plugin has this file, at `path`."""
        site = self.site(server, settings=settings, **options)
        self.path = site.directory / 'mta_pool.cfg'
        return site

    def lines(self, site, *words):
        """The lines of the logs and of the processes with these words."""
        return [line for line in site.logs().splitlines()
                if all(word in line for word in words)]


def moved_away(path):
    path.unlink()


def directory(path):
    path.unlink()
    path.mkdir()


def unreadable(path):
    # Also for root, whom no permissions stop.
    path.unlink()
    path.symlink_to(path)


def with_text(text):
    def change(path):
        path.write_bytes(text.encode('latin-1'))
    return change


def same_length_and_time(path):
    """An edit that only the contents show."""
    times = path.stat()
    text = path.read_text().replace('chunking: no', 'chunking: on')
    path.write_text(text)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


# What is done to the file, and what the line about it names.
MISTAKES = {
    'an unknown key': (
        with_text(BAD), ('mta_pool.cfg', '[delivery] atempts')),
    'an unknown section': (
        with_text('[delivry]\n'), ('mta_pool.cfg', '[delivry]')),
    'a bad value': (
        with_text('[pool]\nidle_timeout: soon\n'),
        ('mta_pool.cfg', '[pool] idle_timeout', "'soon'")),
    'a value of another alphabet': (
        with_text('[delivery]\nattempts: \xc3\xa9\n'),
        ('mta_pool.cfg', '[delivery] attempts', 'ASCII')),
    'a section twice': (
        with_text('[pool]\nidle_timeout: 1s\n[delivery]\n[pool]\n'),
        ('mta_pool.cfg', '[pool]', 'line 4')),
    'a key twice': (
        with_text('[pool]\nidle_timeout: 1s\nidle_timeout: 2s\n'),
        ('mta_pool.cfg', '[pool] idle_timeout', 'line 3')),
    'no file': (
        moved_away,
        ('mailman.cfg', '[plugin.mta_pool] configuration', 'mta_pool.cfg',
         'No such file')),
    'a directory': (
        directory,
        ('mailman.cfg', '[plugin.mta_pool] configuration', 'mta_pool.cfg',
         'directory')),
    'an unreadable file': (
        unreadable,
        ('mailman.cfg', '[plugin.mta_pool] configuration', 'mta_pool.cfg')),
    'another encoding': (
        with_text('# na\xefve\n' + WITH_BDAT),
        ('mailman.cfg', '[plugin.mta_pool] configuration', 'mta_pool.cfg',
         'utf-8')),
    'half a key': (
        with_text('[relay.mta]\nchunk'), ('mta_pool.cfg', 'line 2')),
    'half a value': (
        with_text('[delivery]\nmessage_rejected: boun'),
        ('mta_pool.cfg', '[delivery] message_rejected', "'boun'")),
    'half a value that looks good': (
        with_text('[delivery]\nsplit: 2'), ('mta_pool.cfg', 'newline')),
    'nothing yet': (
        with_text(''), ('mta_pool.cfg', 'newline')),
    # More of relays and limits: tests/operate/mistakes.py.
    **{name: (with_text(MISTAKES_OF_RELAYS[name][0]),
              ('mta_pool.cfg', *MISTAKES_OF_RELAYS[name][1:]))
       for name in ('one name in capitals', 'for as if it were a relay',
                    'a password file that is not there',
                    'a storage of another kind', 'a mode that nobody has')},
    'an edit that does not show': (
        same_length_and_time,
        ('mta_pool.cfg', '[relay.mta] chunking', "'on'")),
    }


class TestWhileRunning(ConfigurationTestCase):
    """The last good settings hold until the next good ones."""

    def setUp(self):
        super().setUp()
        self.server = self.use(Scripted(extensions=BY_CHUNKS))

    def start(self):
        site = self.edited_site(self.server, members=3)
        self.posts = 0
        self.use(site.runner())
        site.wait_for(
            lambda: 'out runner started' in site.log('mailman.log'),
            'the runner')
        return site

    def deliver(self, site, verb):
        """Deliver a post, whose content comes with this command."""
        before = len(self.server.said(verb))
        site.post()
        self.posts += 1
        self.server.wait_for(
            lambda server: len(server.served) == 3 * self.posts)
        site.wait_until_empty()
        self.assertGreater(len(self.server.said(verb)), before)
        self.assertEqual(site.waiting(), {})

    def restore(self, text):
        if self.path.is_dir():
            self.path.rmdir()
        elif self.path.is_symlink():
            self.path.unlink()
        self.path.write_text(text)

    def test_mistakes(self):
        site = self.start()
        self.deliver(site, 'DATA')
        for number, (name, (change, words)) in enumerate(MISTAKES.items()):
            with self.subTest(name):
                change(self.path)
                held = len(self.lines(site, HELD))
                self.deliver(site, 'DATA')
                line, = self.lines(site, HELD)[held:]
                for word in words:
                    self.assertIn(word, line)
                # It is said once, and not with every post.
                self.deliver(site, 'DATA')
                self.assertEqual(len(self.lines(site, HELD)), held + 1)
                self.assertEqual(len(self.lines(site, ADOPTED)), number)
                # As it was, it is adopted again.
                self.restore(WITH_DATA)
                self.deliver(site, 'DATA')
                self.assertEqual(len(self.lines(site, ADOPTED)), number + 1)
        self.assertEqual(self.server.said('BDAT'), [])
        self.assertQuiet(site)

    def test_the_next_good_file(self):
        site = self.start()
        self.deliver(site, 'DATA')
        self.assertEqual(self.lines(site, ADOPTED), [])
        for text in (BAD, BAD.replace('atempts', 'tempts')):
            self.restore(text)
            self.deliver(site, 'DATA')
        # Two changes, two lines.
        self.assertEqual(len(self.lines(site, HELD)), 2)
        self.restore(WITH_BDAT)
        for _ in range(2):
            self.deliver(site, 'BDAT')
        self.assertEqual(
            len(self.lines(site, str(self.path), ADOPTED)), 1)
        # From good to good there is nothing to complain about.
        self.restore(WITH_DATA)
        self.deliver(site, 'DATA')
        self.assertEqual(len(self.lines(site, ADOPTED)), 2)
        self.assertEqual(len(self.lines(site, HELD)), 2)
        # A comment is no less than all the defaults.
        self.restore('# Nothing to be changed.\n')
        self.deliver(site, 'BDAT')

    def test_before_the_first_post(self):
        site = self.start()
        self.restore(BAD)
        self.deliver(site, 'DATA')
        self.assertEqual(len(self.lines(site, HELD)), 1)
        self.assertQuiet(site)


ANSWERS = '[answer.mine]\nreply: 550 Not today\nabout: us\n'
# What is done to the site's own answers, and what the line about it names.
ANSWERS_MISTAKES = {
    'an unknown key': (
        with_text(ANSWERS + 'codes: 550\n'),
        ('answers.cfg: [answer.mine] codes',)),
    'an unknown section': (
        with_text('[answers.mine]\n'), ('answers.cfg: [answers.mine]',)),
    'a bad value': (
        with_text(ANSWERS.replace('us', 'them')),
        ('answers.cfg: [answer.mine] about', "'them'")),
    'a pattern that makes no sense': (
        with_text(ANSWERS.replace('Not', '(Not')),
        ('answers.cfg: [answer.mine] reply', 'regular expression')),
    'half an entry': (
        with_text(ANSWERS[:-4]), ('answers.cfg: [answer.mine] about',)),
    'half a value that looks good': (
        with_text(ANSWERS + 'remedy: Wa'), ('answers.cfg', 'newline')),
    'no file': (
        moved_away, ('mta_pool.cfg: [delivery] answers', 'No such file')),
    'another encoding': (
        with_text('# na\xefve\n' + ANSWERS),
        ('mta_pool.cfg: [delivery] answers', 'utf-8')),
    }


class TestAnswers(ConfigurationTestCase):
    """The site's own answers are a part of the settings."""

    def setUp(self):
        super().setUp()
        self.server = self.use(Scripted())
        self.site = self.edited_site(self.server, members=1)
        self.answers = self.site.directory / 'answers.cfg'
        self.good = f'[delivery]\nanswers: {self.answers}\n'
        self.path.write_text(self.good)
        self.answers.write_text(ANSWERS)
        self.posts = 0

    def deliver(self):
        self.site.post()
        self.posts += 1
        self.server.wait_for(
            lambda server: len(server.served) == self.posts)
        self.site.wait_until_empty()

    def start(self):
        self.use(self.site.runner())
        self.site.wait_for(
            lambda: self.lines(self.site, 'out runner started'),
            'the runner')
        self.deliver()

    def test_mistakes(self):
        self.start()
        for number, (name, (change, words)) in enumerate(
                ANSWERS_MISTAKES.items()):
            with self.subTest(name):
                change(self.answers)
                for _ in range(2):
                    self.deliver()
                # One line for each mistake, and not with every post.
                line, = self.lines(self.site, HELD)[number:]
                for word in words:
                    self.assertIn(word, line)
                self.answers.write_text(ANSWERS)
                self.deliver()
                self.assertEqual(
                    len(self.lines(self.site, 'answers.cfg', ADOPTED)),
                    number + 1)
        self.assertQuiet(self.site)

    def test_either_file(self):
        self.start()
        self.path.write_text(BAD)
        self.deliver()
        # What the answers say meanwhile counts when both are good.
        self.answers.write_text(ANSWERS + '[answer.other]\n')
        self.deliver()
        self.assertEqual(len(self.lines(self.site, HELD)), 1)
        self.path.write_text(self.good)
        self.deliver()
        self.assertEqual(len(self.lines(
            self.site, HELD, 'answers.cfg: [answer.other]')), 1)
        self.assertEqual(self.lines(self.site, ADOPTED), [])
        self.answers.write_text(ANSWERS)
        self.deliver()
        self.assertEqual(len(self.lines(self.site, ADOPTED)), 1)
        self.assertEqual(len(self.lines(self.site, HELD)), 2)

    def test_at_the_start(self):
        self.answers.write_text(ANSWERS.replace('us', 'them'))
        with self.assertRaises(SiteError) as caught:
            self.site.mailman('start')
        line, = str(caught.exception).splitlines()
        self.assertIn(f'{self.answers}: [answer.mine] about', line)


class TestCommands(ConfigurationTestCase):
    """Only runners refuse, and the commands that start them."""

    def test_they_go_on(self):
        site = self.edited_site(settings=BAD)
        shunted = site.post(queue='shunt', whichq='out')
        for arguments, expected in (
                (['status'], 'not running'),
                (['info'], 'GNU Mailman 3'),
                (['lists'], 'ant@example.com'),
                (['members', 'ant@example.com'], 'person-000001'),
                (['create', 'start@example.com'], 'start@example.com'),
                # A list, and not the command.
                (['members', 'start@example.com'], 'no members'),
                (['--help'], 'unshunt'),
                (['stop'], 'Shutting down'),
                (['reopen'], 'Reopening'),
                (['unshunt'], '')):
            with self.subTest(arguments):
                said = site.mailman(*arguments)
                self.assertIn(expected, said)
                self.assertEqual(said.count('mailman_mta_pool:'), 1, said)
                self.assertIn(f'{self.path}: [delivery] atempts', said)
                self.assertNotIn('Traceback', said)
        self.assertFalse(shunted.exists())
        self.assertEqual(
            site.waiting(), {'out': sorted(site.members)})

    def test_mistakes_in_mailman_cfg(self):
        for mta in ({'max_delivery_threads': 'many'},
                    {'smtp_secure_mode': 'magic'}):
            site = self.site(**mta)
            (key, value), = mta.items()
            said = site.mailman('status')
            self.assertIn(f'[mta] {key}', said)
            self.assertIn(repr(value), said)
            self.assertIn('not running', said)
            with self.assertRaises(SiteError):
                site.mailman('start')

    def test_start_refuses(self):
        site = self.edited_site(settings=BAD)
        with self.assertRaises(SiteError) as caught:
            site.mailman('start')
        line, = str(caught.exception).splitlines()
        self.assertIn(f'{self.path}: [delivery] atempts', line)
        self.assertIn('not running', site.mailman('status'))
        # So does the master, if something else than Mailman starts it.
        self.assertEqual(site.start_master().wait(30), 1)
        self.assertIn('atempts', (site.directory / 'master.txt').read_text())
        self.assertEqual(self.lines(site, 'Master started'), [])

    def test_a_site_at_work(self):
        server = self.use(Scripted())
        site = self.edited_site(server)
        master = site.start_master()
        site.wait_for(
            lambda: self.lines(site, 'out runner started'), 'the runner')
        self.path.write_text(BAD)
        # The runners that there are have good settings, and others would
        # not start.
        with self.assertRaises(SiteError) as caught:
            site.mailman('restart')
        self.assertIn('[delivery] atempts', str(caught.exception))
        site.mailman('reopen')
        site.wait_for(
            lambda: self.lines(site, 'Re-opening log files'), 'a signal')
        site.post()
        server.wait_for(
            lambda server: len(server.served) == len(site.members))
        site.wait_for(lambda: site.is_empty('out'), 'an empty queue')
        site.mailman('stop')
        self.assertEqual(master.wait(30), 0)
        self.assertEachOnce(site, server.served)
        self.assertQuiet(site)


class TestRunners(ConfigurationTestCase):
    def test_they_refuse(self):
        site = self.edited_site(settings=BAD)
        for name in ('out', 'retry', 'rest'):
            with self.subTest(name):
                runner = site.start_runner(name)
                self.assertEqual(runner.wait(30), signal.SIGTERM)
                line, = site.said(name).splitlines()
                self.assertIn(f'{self.path}: [delivery] atempts', line)
        # Once for each, and in the log as well.
        self.assertEqual(site.log('mailman.log').count('atempts'), 3)
        self.assertQuiet(site)

    def test_their_master_does_not_insist(self):
        site = self.edited_site(under_master=('out', 'retry'))
        master = site.start_master()
        site.wait_for(
            lambda: len(self.lines(site, 'runner started')) == 2,
            'the runners')
        self.path.write_text(BAD)
        # As an older `mailman restart` would.
        master.signal(signal.SIGUSR1)
        self.assertEqual(master.wait(60), 0)
        self.assertEqual(site.log('mailman.log').count('atempts'), 2)
        self.assertEqual(len(self.lines(site, 'runner started')), 2)


class TestRelays(ConfigurationTestCase):
    """A mail server that the plugin's own file names."""

    def test_it_gets_the_mail(self):
        server = self.use(Scripted(extensions=('AUTH PLAIN',)))
        others = self.use(Scripted())
        site = self.edited_site(others, members=3, settings='')
        secret = site.directory / 'password'
        secret.write_text('hunter2\n')
        secret.chmod(0o644)
        self.path.write_text(
            f'[relay.own]\nhost: {server.host}\nport: {server.port}\n'
            f'user: ant\npassword_file: {secret}\n'
            'hello_name: ant.example.com\nsource_address: 127.0.0.2\n')
        site.run({'verp': False}, {'verp': False})
        self.assertEqual(others.served, [])
        self.assertEqual(
            sorted(server.served), sorted(site.members * 2))
        self.assertEqual(server.said('EHLO')[0], 'EHLO ant.example.com')
        self.assertEqual(
            len(self.lines(site, f'chmod go-r {secret}')), 1)
        self.assertNotIn('hunter2', site.logs())
        self.assertQuiet(site)

    def test_a_program_that_fails_for_a_while(self):
        server = self.use(Scripted(extensions=('AUTH PLAIN',)))
        site = self.edited_site(members=3, settings='')
        secret = site.directory / 'password'
        self.path.write_text(
            f'[relay.own]\nhost: {server.host}\nport: {server.port}\n'
            f'user: ant\npassword_command: cat {secret}\n')
        site.run({'verp': False})
        self.assertEqual(site.waiting(), {'retry': sorted(site.members)})
        self.assertEqual(site.bounced(), [])
        secret.write_text('hunter2\n')
        site.retry()
        site.run()
        self.assertEqual(sorted(server.served), sorted(site.members))
        self.assertQuiet(site)


class TestWithoutPlugin(ConfigurationTestCase):
    """Nothing is checked at the start, and [mta] can be wrong."""

    mistakes = (
        ('max_delivery_threads', 'many'),
        ('smtp_verify_cert', 'perhaps'),
        ('smtp_secure_mode', 'magic'),
        )

    def test_posts_wait(self):
        site = self.site(members=3, plugin=False)
        posts = 0
        for key, value in self.mistakes:
            with self.subTest(key):
                site.set_up(plugin=False, **{key: value})
                site.run({'verp': True}, {'verp': False})
                posts += 2
                self.assertEqual(site.waiting(), {
                    'retry': sorted(site.members * posts)})
                lines = self.lines(
                    site, 'mailman.cfg', f'[mta] {key}', repr(value),
                    'tried again later for 3 recipients')
                self.assertEqual(len(lines), 2, lines)
        self.assertEqual(site.bounced(), [])
        self.assertQuiet(site)
        # Mended, they go out.
        server = self.use(Scripted())
        site.set_up(server, plugin=False)
        site.retry()
        site.run()
        self.assertEqual(
            sorted(server.served), sorted(site.members * posts))
        self.assertEqual(site.waiting(), {})

    def test_after_a_crash(self):
        # Nobody gets a second copy, whatever is wrong when it goes on.
        def script(command, session):
            if command.startswith('RCPT') and len(server.accepted) == 5:
                return HANG
        server = self.use(Scripted(script, extensions=()))
        site = self.site(
            server, members=10, max_delivery_threads=1, plugin=False)
        site.post(verp=True)
        runner = site.start_runner()
        server.wait_for(lambda server: len(server.said('RCPT')) == 6)
        runner.kill()
        site.set_up(plugin=False, smtp_port='smtp')
        site.run()
        self.assertEachOnce(site, server.served, ['retry'])
        mended = self.use(Scripted())
        site.set_up(mended, plugin=False)
        site.retry()
        site.run()
        self.assertEachOnce(site, server.served + mended.served)
        self.assertQuiet(site)
