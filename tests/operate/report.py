# SPDX-License-Identifier: GPL-3.0-or-later
"""`mailman mta-pool report`, its files, and its page in a real browser."""

import os
import time
import sqlite3
import resource

from contextlib import closing
from mailman_mta_pool.monitoring.files import state_directory, write_whole
from mailman_mta_pool.monitoring.state import (
    Failures,
    PostState,
    RelayState,
    SliceState,
)
from tests.operate.browser import Browser
from tests.operate.command import mta_pool, WITHOUT_RIGHTS
from tests.scripted import Scripted
from tests.site_case import SiteTestCase


ATTACK = '<script>alert(1)</script>'
HOSTILE_LIST = f'{ATTACK}@example.com'
HOSTILE_WORDS = (
    f'550 5.7.1 "><img src=x onerror=alert(1)>{ATTACK} \x1b[2J\u202egpj.exe '
    + 'w' * 400)
WIDE, PAPER, NARROW = 1200, 718, 320
FILE_SIZE = 4096


def hostile_state(now):
    """Return the state of a slice whose every text is meant badly."""
    post = PostState(
        message_id=f'<{ATTACK}{"m" * 300}>',
        list_name=HOSTILE_LIST, total=200, started=now - 60, rate=3.5)
    post.outcomes.update(accepted=120, refused=5)
    ended = PostState(
        entry='1+b', message_id='<b@example.com>', list_name=HOSTILE_LIST,
        total=20, started=now - 600, ended=now - 500,
        failures=[Failures('refused', HOSTILE_WORDS, 5)])
    ended.outcomes.update(accepted=15, refused=5)
    minute = int(now) // 60 * 60
    return SliceState(
        slice='out-0-of-1', written=now, working=True, last_accepted=now,
        minutes=[(minute - 60 * number, 10 + number) for number in range(50)],
        posts=[post], last_posts=[ended],
        relays=[RelayState(ATTACK, 'down', HOSTILE_WORDS)])


class ReportTestCase(SiteTestCase):
    def setUp(self):
        super().setUp()
        self.members = self.site()
        self.page = self.members.directory / 'report.html'

    def write_state(self, text, name='out-0-of-1.json'):
        """Write a state file, as the network thread of a runner does."""
        directory = state_directory(str(self.members.var))
        os.makedirs(directory, exist_ok=True)
        write_whole(os.path.join(directory, name), text, 0o600)

    def report(self, path=None, **options):
        """Run the command."""
        return mta_pool(self.members, 'report', '--html',
                        path or self.page, **options)

    def assertOneLine(self, done, text, status=1):
        """The command failed, and said why."""
        self.assertEqual(done.status, status, done)
        self.assertEqual(len(done.errors), 1, done)
        self.assertIn(text, done.errors[0])


class TestCommand(ReportTestCase):
    """The file is written whole, or a line says why not."""

    def test_a_new_site(self):
        # There is no state directory yet.
        done = self.report()
        self.assertEqual((done.status, done.output, done.errors), (0, b'', []))
        self.assertIn('No post is being delivered.', self.page.read_text())

    def test_the_file(self):
        self.write_state(hostile_state(time.time()).to_json())
        self.page.write_text('the one before')
        kept = self.members.directory / 'kept.html'
        os.link(self.page, kept)
        link = self.members.directory / 'link.html'
        link.symlink_to(self.page)
        done = self.report(link, preexec_fn=lambda: os.umask(0o077))
        self.assertEqual((done.status, done.errors), (0, []))
        # A reader who has opened the old file goes on reading that one.
        self.assertEqual(kept.read_text(), 'the one before')
        self.assertTrue(link.is_symlink())
        self.assertEqual(self.page.stat().st_mode & 0o777, 0o644)
        self.assertIn('&lt;script&gt;', self.page.read_text())
        self.assertEqual(list(self.members.directory.glob('.*')), [])

    def test_standard_output(self):
        self.write_state(hostile_state(time.time()).to_json())
        done = self.report('-', env={**os.environ, 'LC_ALL': 'C',
                                     'PYTHONUTF8': '0',
                                     'PYTHONCOERCECLOCALE': '0'})
        self.assertEqual((done.status, done.errors), (0, []))
        self.assertTrue(done.output.startswith(b'<!DOCTYPE html>'))
        self.assertIn('“', done.output.decode())

    def test_a_missing_directory(self):
        done = self.report(self.members.directory / 'none' / 'report.html')
        self.assertOneLine(done, 'No such file or directory')

    def test_a_directory(self):
        done = self.report(self.members.directory)
        self.assertOneLine(done, 'Is a directory')

    def test_no_right_to_write(self):
        self.page.write_text('the one before')
        os.chmod(self.members.directory, 0o555)
        done = self.report(wrapper=WITHOUT_RIGHTS)
        os.chmod(self.members.directory, 0o755)
        self.assertOneLine(done, 'Permission denied')
        self.assertEqual(self.page.read_text(), 'the one before')

    def test_no_right_to_read(self):
        self.write_state(hostile_state(time.time()).to_json())
        os.chmod(state_directory(str(self.members.var)), 0)
        done = self.report(wrapper=WITHOUT_RIGHTS)
        self.assertOneLine(done, 'Permission denied')
        self.assertIn('the report is written', done.errors[0])
        self.assertIn('Permission denied', self.page.read_text())

    def test_a_half_written_state(self):
        text = hostile_state(time.time()).to_json()
        self.write_state(text, 'out-0-of-2.json')
        self.write_state(text[:len(text) // 2], 'out-1-of-2.json')
        done = self.report()
        self.assertOneLine(done, 'out-1-of-2.json')
        # What the other file says is in the page.
        self.assertIn('&lt;script&gt;', self.page.read_text())

    def test_a_full_disk(self):
        self.page.write_text('the one before')
        done = self.report(preexec_fn=lambda: resource.setrlimit(
            resource.RLIMIT_FSIZE, (FILE_SIZE, FILE_SIZE)))
        self.assertOneLine(done, 'the report was not written')
        self.assertEqual(self.page.read_text(), 'the one before')
        self.assertEqual(list(self.members.directory.glob('.*')), [])

    def test_a_full_device(self):
        with open('/dev/full', 'wb') as full:
            done = self.report('-', stdout=full)
        self.assertOneLine(done, 'No space left on device')
        self.assertOneLine(self.report('/dev/full'), 'No space left on device')
        # It has not been replaced by a file.
        self.assertTrue(os.path.exists('/dev/full'))
        self.assertFalse(os.path.isfile('/dev/full'))

    def test_usage(self):
        done = mta_pool(self.members, 'report')
        self.assertEqual(done.status, 2)
        self.assertIn('--html', done.errors[-1])

    def test_a_bad_configuration(self):
        self.members.set_up(settings={'delivery': {'time_slice': 'often'}})
        done = self.report()
        self.assertEqual(done.status, 0, done)
        self.assertIn('No post is being delivered.', self.page.read_text())


class TestPage(ReportTestCase):
    """A hostile page, as users of all kinds see it."""

    def setUp(self):
        super().setUp()
        self.browser = self.use(Browser())
        self.write_state(hostile_state(time.time()).to_json())
        self.members.post()
        self.assertEqual(self.report().status, 0)

    def open(self, **shown):
        """Open the page in the browser; see `Browser.show`."""
        self.browser.show(**shown)
        self.browser.open(self.page.as_uri())

    def test_no_script_runs(self):
        self.open()
        self.assertEqual(self.browser.complaints, [])
        self.assertEqual(self.browser.requested, [self.page.as_uri()])
        self.assertEqual(self.browser.evaluate(
            'document.querySelectorAll("script, img, iframe, object").length'),
            0)
        for text in (HOSTILE_LIST, 'm' * 300,
                     '"><img src=x onerror=alert(1)>'):
            self.assertIn(text, self.browser.evaluate(
                'document.body.textContent'))
        # The style sheet is let through by its hash.
        self.assertEqual(self.browser.evaluate(
            'getComputedStyle(document.querySelector("section"))'
            '.borderTopStyle'), 'solid')

    def test_the_policy_is_there_if_the_escaping_fails(self):
        page = self.page.read_text()
        for bad in ('<script>document.title = "run"</script>',
                    '<p style="color: red" onclick="alert(1)">bad</p>',
                    '<img src="https://example.com/x.png" alt="">'):
            self.page.write_text(page.replace('<main>', f'<main>{bad}'))
            self.open()
            self.assertNotEqual(self.browser.complaints, [], bad)
            self.assertNotEqual(
                self.browser.evaluate('document.title'), 'run')

    def test_axe_finds_nothing(self):
        for dark in (False, True):
            for width in (WIDE, NARROW):
                with self.subTest(dark=dark, width=width):
                    self.open(dark=dark, width=width)
                    self.assertEqual(self.browser.violations(), [])

    def test_axe_would_find_something(self):
        page = self.page.read_text()
        self.page.write_text(page.replace(' lang="en"', ''))
        self.open()
        self.assertIn('html-has-lang', ''.join(self.browser.violations()))

    def test_light_and_dark(self):
        grounds = []
        for dark in (False, True):
            self.open(dark=dark)
            grounds.append(self.browser.evaluate(
                'getComputedStyle(document.body).backgroundColor'))
        self.assertEqual(grounds, ['rgb(244, 246, 248)', 'rgb(19, 22, 26)'])
        # On paper it is light, whatever the user prefers.
        self.open(dark=True, media='print')
        self.assertEqual(self.browser.evaluate(
            'getComputedStyle(document.querySelector("h1")).color'),
            'rgb(27, 32, 38)')
        self.assertEqual(self.browser.evaluate(
            'getComputedStyle(document.querySelector("nav")).display'), 'none')

    def test_nothing_is_cut_off_on_paper(self):
        # A4 without the margins, at 96 pixels an inch.
        self.open(width=PAPER, media='print')
        self.assertEqual(self.browser.evaluate(
            '[...document.querySelectorAll("*")].filter(each => '
            'each.getBoundingClientRect().right > innerWidth + 1).length'), 0)

    def test_long_words_break(self):
        for width in (WIDE, NARROW):
            self.open(width=width)
            self.assertEqual(self.browser.evaluate(
                'document.documentElement.scrollWidth'), width)

    def test_keyboard(self):
        self.open(width=NARROW)
        wide = self.browser.evaluate(
            '[...document.querySelectorAll("*")].filter(each => '
            'each.scrollWidth > each.clientWidth && '
            'getComputedStyle(each).overflowX === "auto").length')
        self.assertGreater(wide, 0)
        links = self.browser.evaluate('document.querySelectorAll("a").length')
        areas = self.browser.evaluate(
            'document.querySelectorAll(".scroll").length')
        reached = []
        for _ in range(links + areas):
            self.browser.press('Tab')
            reached.append(self.browser.evaluate(
                'document.activeElement.tagName + '
                '(document.activeElement.scrollWidth > '
                'document.activeElement.clientWidth ? " wide" : "")'))
        self.assertEqual(reached[:links], ['A'] * links)
        self.assertEqual(reached[links:].count('DIV wide'), wide)


class TestLive(SiteTestCase):
    """The page of a real delivery."""

    def test_a_hostile_list(self):
        browser = self.use(Browser())
        refused = []

        def script(command, session):
            if command.startswith('RCPT') and not refused:
                refused.append(command)
            if refused and command == refused[0]:
                return f'550 5.1.1 "{ATTACK}" no such user'
        server = self.use(Scripted(script))
        site = self.site(server)
        # Mailman makes no list with such a name, so it is renamed.
        with closing(sqlite3.connect(
                site.var / 'data' / 'mailman.db')) as database, database:
            database.execute(
                'UPDATE mailinglist SET list_name = ?', (ATTACK,))
        # No mail can have a sender that is made of that name.
        site.run({'sender': 'ant-bounces@example.com'})
        self.assertEqual(len(server.served), len(site.members) - 1)
        page = site.directory / 'report.html'
        done = mta_pool(site, 'report', '--html', page)
        self.assertEqual((done.status, done.errors), (0, []))
        browser.show()
        browser.open(page.as_uri())
        self.assertEqual(browser.complaints, [])
        text = browser.evaluate('document.body.innerText')
        for shown in (HOSTILE_LIST, '<post@example.com>', ATTACK,
                      f'127.0.0.1:{server.port}', '1 refused'):
            self.assertIn(shown, text)
        self.assertEqual(browser.evaluate(
            'document.querySelector("#counters-caption").closest("table")'
            '.rows[1].innerText').split(),
            ['accepted', str(len(server.served))])
        for member in site.members:
            self.assertNotIn(member, page.read_text())
        self.assertEqual(browser.violations(), [])
