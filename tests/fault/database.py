# SPDX-License-Identifier: GPL-3.0-or-later
"""The database, while a post goes out and others want it, too."""

import sqlite3
import threading

from contextlib import closing
from mailman.interfaces.mailinglist import Personalization
from tests.scripted import Scripted
from tests.site import POST
from tests.site_case import SiteTestCase


FOOTER = 'list:member:regular:footer'
# So big that not all of them can be rendered ahead.
BIG = POST + b'Ants are busy.\n' * 1400


def connect(site, timeout=5):
    """A connection of another process than the runner's."""
    return closing(sqlite3.connect(
        site.var / 'data' / 'mailman.db', timeout=timeout,
        isolation_level=None))


class DatabaseTestCase(SiteTestCase):
    """With a post that stops in the middle."""

    def setUp(self):
        super().setUp()
        self.go = threading.Event()

    def script(self, command, session):
        """Stop everything after some messages, and refuse one member."""
        if len(self.server.served) >= 20:
            self.go.wait(60)
        if command.startswith('RCPT') and '00010@' in command:
            return '550 5.1.1 No such ant'

    def begin(self, members=30, content=POST, personalize=None, settings=None,
              **msgdata):
        """Start a delivery, and wait until it is in the middle."""
        self.server = self.use(Scripted(self.script))
        site = self.site(
            self.server, members=members, settings=settings, attributes={
                'personalize': personalize or Personalization.none})
        site.write_template(
            FOOTER, '-- \nFor ${user_name} <${user_address}>.\n')
        site.post(content, **msgdata)
        site.start_runner()
        self.server.wait_for(lambda server: len(server.served) >= 20)
        return site

    def assertAllWell(self, site, **options):
        """All got it but the one that was refused, who bounced."""
        bounced = [member for member in site.members if '00010@' in member]
        self.assertEqual(len(bounced), 1)
        self.assertEachOnce(
            site, self.server.served, bounced=bounced, **options)
        self.assertQuiet(site)


class TestLocked(DatabaseTestCase):
    """Another process has it for 8 seconds; SQLite alone would wait for 5."""

    def hold(self, site, begin):
        with connect(site) as connection:
            connection.execute(begin)
            self.go.set()
            threading.Event().wait(8)
            connection.execute('ROLLBACK')

    def test_while_members_are_looked_up(self):
        # Even readers have to wait.  They are looked up 500 at a time.
        site = self.begin(
            members=700, content=BIG, verp=True,
            personalize=Personalization.individual)
        self.hold(site, 'BEGIN EXCLUSIVE')
        site.wait_until_empty()
        self.assertNotIn('goes out later', site.log('smtp.log'))
        self.assertAllWell(site)

    def test_while_a_bounce_is_written(self):
        site = self.begin(verp=True)
        self.hold(site, 'BEGIN IMMEDIATE')
        site.wait_until_empty()
        self.assertAllWell(site)

    def test_for_longer_than_we_wait(self):
        # The rest is in the queue again, and goes out when it can.
        site = self.begin(
            members=700, content=BIG, verp=True,
            personalize=Personalization.individual,
            settings={'delivery': {'patience': '1s'}})
        with connect(site) as connection:
            connection.execute('BEGIN EXCLUSIVE')
            self.go.set()
            site.wait_for(
                lambda: 'goes out later' in site.log('smtp.log'), 'the end')
            connection.execute('ROLLBACK')
        site.wait_until_empty()
        self.assertAllWell(site)


class TestOthers(DatabaseTestCase):
    """They can write while a long post goes out."""

    def test_write(self):
        for personalize, verp in (
                (Personalization.none, False), (Personalization.none, True),
                (Personalization.individual, True),
                (Personalization.full, True)):
            with self.subTest(personalize=personalize, verp=verp):
                self.go.clear()
                site = self.begin(
                    members=30, personalize=personalize, verp=verp)
                with connect(site, timeout=0) as connection:
                    connection.execute('BEGIN EXCLUSIVE')
                    connection.execute(
                        "UPDATE mailinglist SET display_name = 'Bees'")
                    connection.execute('COMMIT')
                self.go.set()
                site.wait_until_empty()
                self.assertAllWell(site)
