# SPDX-License-Identifier: GPL-3.0-or-later

"""Servers that do not do what they offer: everybody is served all the same."""

from itertools import product
from tests.fault.cases import HASTY
from tests.scripted import CLOSE, HANG, Scripted
from tests.site_case import SiteTestCase


LOST_THREAD = '500 5.5.1 Invalid command: Pipelining not supported'
LOGIN = '502 5.7.0 Please authenticate first'
BY_CHUNKS = ('PIPELINING', 'CHUNKING')


class TestLessons(SiteTestCase):
    def serve(self, make_script, extensions=BY_CHUNKS, members=20, **options):
        """Send posts, bulk and VERP, over one connection and over eight.

        :param make_script: Makes the server's script, of the number of
            connections.
        :param options: For the site.
        """
        for verp, connections in product((False, True), (1, 8)):
            with self.subTest(verp=verp, connections=connections):
                server = self.use(Scripted(
                    make_script(connections), extensions=extensions))
                site = self.site(
                    server, members=members, max_recipients=3,
                    max_delivery_threads=connections,
                    settings={'relay.mta': HASTY}, **options)
                site.run({'verp': verp})
                self.assertEachOnce(site, server.served)
                self.assertQuiet(site)
                yield server

    def test_chunking(self):
        for reply in ('521 5.5.1 Error: command not implemented',
                      '500 5.5.1 What?', '554 5.5.1 No', CLOSE):
            def make_script(connections, reply=reply):
                def script(command, session):
                    if command.startswith('BDAT'):
                        refused.add(session.number)
                        return reply
                    if session.number in refused:
                        # It closes after that.
                        return CLOSE
                refused = set()
                return script
            for server in self.serve(make_script):
                # It was tried once.
                self.assertEqual(server.said('BDAT'), ['BDAT 1'])

    def for_groups(self, answer):
        """Answer those who connect before there was any MAIL in a way.

        Whoever connects later knows better than to send groups.

        :param answer: Called with each command, it returns the answer.
        """
        def make_script(connections):
            def script(command, session):
                if command == 'CONNECT':
                    opened.append(session.number)
                elif command.startswith('MAIL') and not first:
                    first.append(max(opened))
                if first and session.number <= first[0]:
                    return answer(command)
            opened, first = [], []
            return script
        for server in self.serve(make_script, ('PIPELINING',)):
            self.assertEqual(len(server.served), 20)

    def test_a_group_that_is_not_understood(self):
        def answer(command):
            if command.startswith('MAIL'):
                return LOST_THREAD
            if command.startswith(('RCPT', 'DATA')):
                return '503 5.5.1 Bad sequence of commands'
        self.for_groups(answer)

    def test_a_group_of_which_the_rest_is_dropped(self):
        self.for_groups(lambda command: (
            HANG if command.startswith(('RCPT', 'DATA')) else None))

    def test_a_login_that_is_forgotten(self):
        def make_script(connections):
            def script(command, session):
                if command.startswith('EHLO'):
                    hellos.append(session.number)
                if command.startswith('MAIL'):
                    mails.append(session.number)
                    is_first = mails.count(session.number) == 3 and (
                        session.number <= connections)
                    if is_first or hellos.count(session.number) > 1:
                        return LOGIN
                if command.startswith('AUTH'):
                    return '235 2.7.0 Welcome'
            hellos, mails = [], []
            return script
        for server in self.serve(
                make_script, (*BY_CHUNKS, 'AUTH PLAIN'),
                smtp_user='ant', smtp_pass='Zebra-7'):
            self.assertTrue(server.said('AUTH'))
