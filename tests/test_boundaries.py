# SPDX-License-Identifier: GPL-3.0-or-later

"""MIME boundaries that nobody foresees, from real runners."""

import re
import sys
import random
import unittest

from email import message_from_bytes
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText
from mailman.core.switchboard import Switchboard
from mailman.interfaces.mailinglist import Personalization
from mailman.testing.layers import ConfigLayer
from mailman_mta_pool.connection import SMTPConnection
from mailman_mta_pool.demo.population import as_queued
from tests.once import once
from tests.rendering.signing import KEY, SECTION
from tests.scripted import Scripted
from tests.seeded import SEED
from tests.site import LIST_ID, POST
from tests.site_case import SiteTestCase


SEEDED = 'tests.seeded.deliver'
FOOTER = 'list:member:regular:footer'
PERSONALIZATIONS = Personalization.individual, Personalization.none
HTML = POST.replace(b'text/plain', b'text/html')
# The last name cannot be spliced.
MEMBERS = [('anne@example.com', 'Anne'), ('bart@example.com', 'Bart'),
           ('cris@example.com', 'Cris'), ('zoe@example.org', 'Zoë'),
           ('odd@example.org', 'Two\nlines')]


def boundaries(content):
    """The boundaries of all multiparts in a message, outermost first."""
    return [part.get_boundary() for part in message_from_bytes(content).walk()
            if part.is_multipart()]


def structure(content):
    """The content types of all parts of a message."""
    return [part.get_content_type()
            for part in message_from_bytes(content).walk()]


def foreseen(count):
    """The numbers that somebody draws who knows the random state."""
    generator = random.Random(SEED)
    return {f'{generator.randrange(sys.maxsize):019}' for _ in range(count)}


@once
class TestRunner(SiteTestCase):
    """Posts that Mailman makes multiparts of."""

    def queued(self, posts, personalize, signs):
        """Put some posts in the queue of a site.

        :param posts: Functions that put a post in the queue of a site.
        :param personalize: The list's personalization.
        :param signs: True if Mailman signs the posts.
        :return: The server and the site.
        """
        server = self.use(Scripted())
        site = self.site(
            server, members=MEMBERS, outgoing=SEEDED,
            attributes={'personalize': personalize})
        site.write_template(FOOTER, 'You are $user_name.\n')
        if signs:
            path = site.directory / 'arc.key'
            path.write_text(KEY)
            site.set_up(server, outgoing=SEEDED, extra=SECTION.format(path))
        for post in posts:
            post(site)
        return server, site

    def assertUnforeseen(self, server, site, posts, depth):
        """Each post has boundaries of its own, and one copy those of another.
        """
        self.assertEqual(site.waiting(), {})
        self.assertQuiet(site)
        self.assertEqual(sorted(server.served), sorted(site.members * posts))
        by_post = {}
        for message in server.accepted:
            found = boundaries(message.content)
            self.assertEqual(len(found), depth)
            name = message_from_bytes(message.content)['message-id']
            by_post.setdefault(name, set()).add(tuple(found))
        self.assertEqual(len(by_post), posts)
        for name, found in by_post.items():
            self.assertEqual(len(found), 1, name)
        all_of_them = [boundary for found in by_post.values()
                       for boundary in found.pop()]
        self.assertEqual(len(set(all_of_them)), posts * depth)
        for boundary in all_of_them:
            self.assertNotIn(
                re.search('[0-9]+', boundary)[0], foreseen(1000))

    def test_each_post_has_its_own(self):
        def posting(number):
            return lambda site: site.post(
                HTML.replace(b'<post', b'<post%d' % number))
        posts = [posting(number) for number in range(3)]
        played = {
            (personalize, signs): self.queued(posts, personalize, signs)
            for personalize in PERSONALIZATIONS for signs in (False, True)}
        self.run_together(*(site for server, site in played.values()))
        for (personalize, signs), (server, site) in played.items():
            with self.subTest(personalize=personalize, signs=signs):
                self.assertUnforeseen(server, site, 3, depth=1)

    def test_multiparts_without_one(self):
        # Such as a digest, which Mailman makes itself.
        def posting(number):
            def post(site):
                msg, msgdata = as_queued(
                    POST, LIST_ID, recipients=set(site.members))
                msg.replace_header('content-type', 'multipart/mixed')
                digest = MIMEMultipart('digest', _subparts=[
                    MIMEText('Ants are strong.\n')])
                odd = message_from_bytes(
                    b'Content-Type: text/plain; charset="\0"\n\n\xe9\n')
                msg.set_payload([digest, odd])
                msg.replace_header('message-id', f'<post{number}@example.com>')
                # Its size has to be found out for the log, whatever is in it.
                msgdata.pop('original_size', None)
                vars(msg).pop('original_size', None)
                directory = site.var / 'queue' / 'out'
                directory.mkdir(parents=True, exist_ok=True)
                Switchboard('out', str(directory)).enqueue(msg, msgdata)
            return post
        posts = [posting(number) for number in range(3)]
        played = {
            personalize: self.queued(posts, personalize, signs=False)
            for personalize in PERSONALIZATIONS}
        self.run_together(*(site for server, site in played.values()))
        for personalize, (server, site) in played.items():
            with self.subTest(personalize=personalize):
                self.assertUnforeseen(server, site, 3, depth=2)

    def test_boundary_of_an_earlier_copy(self):
        # Whoever has read some copies posts a text with their boundaries in
        # it.  To content filtering it is a text.
        server = self.use(Scripted())
        site = self.site(
            server, members=MEMBERS, attributes={
                'personalize': Personalization.individual,
                'filter_content': True})
        site.write_template(FOOTER, 'You are $user_name.\n')
        for _ in range(3):
            site.post(HTML)
        with site.runner():
            site.wait_until_empty()
            earlier = {boundary for message in server.accepted
                       for boundary in boundaries(message.content)}
            attached = ''.join(
                f'--{boundary}\nContent-Type: application/x-ant\n\nBite!\n'
                for boundary in sorted(earlier)).encode()
            count = len(server.accepted)
            site.post(HTML + attached, queue='pipeline')
            with site.runner('pipeline'):
                site.wait_until_empty('pipeline', 'out')
        self.assertQuiet(site)
        self.assertEqual(site.waiting(), {})
        late = server.accepted[count:]
        self.assertEqual(sorted(
            recipient for message in late for recipient in message.recipients),
            sorted(site.members))
        for message in late:
            self.assertIn(attached.replace(b'\n', b'\r\n'), message.content)
            self.assertEqual(structure(message.content), [
                'multipart/mixed', 'text/html', 'text/plain'])


class TestConnection(unittest.TestCase):
    """A `Message` that is given to a connection."""

    layer = ConfigLayer

    def test_each_message_has_its_own(self):
        msg = MIMEMultipart(_subparts=[MIMEText('Ants are strong.\n')])
        received = []
        with Scripted() as server:
            connection = SMTPConnection(server.host, server.port, 0)
            for _ in range(3):
                random.seed(SEED)
                state = random.getstate()
                connection.sendmail(
                    'ant@example.com', ['anne@example.com'], msg)
                self.assertEqual(random.getstate(), state)
            connection.quit()
            received.extend(server.accepted)
        found = {boundary for message in received
                 for boundary in boundaries(message.content)}
        self.assertEqual(len(found), 3)
