# SPDX-License-Identifier: GPL-3.0-or-later
"""Footers on a web server that is down, broken or slow."""

import socket
import threading

from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from mailman.interfaces.mailinglist import Personalization
from mailman.interfaces.template import ITemplateManager
from tests.scripted import Scripted
from tests.servers.loopback import free_port, HOST
from tests.site import LIST_ID, POST, STOCK
from tests.site_case import SiteTestCase
from urllib.parse import parse_qs, urlsplit
from zope.component import getUtility


UNAVAILABLE = 'Template unavailable'
FOOTER = 'list:member:regular:footer'
TEXT = '-- \nMind the ants of ${display_name}.\n'
PERSONAL = '-- \nFor ${user_name} <${user_address}>.\n'
PASSWORD, TOKEN = 'Tr0mbone-Zebra', 'Quagga-11'
# No part of a URI that a log may show.
SECRETS = PASSWORD, TOKEN
#: Every way in which a post is rendered.
KINDS = {
    'bulk': (Personalization.none, {'verp': False}, TEXT, 'Mind the'),
    'VERP': (Personalization.none, {'verp': True}, TEXT, 'Mind the'),
    'personalized': (
        Personalization.individual, {'verp': False}, PERSONAL, 'For Person'),
    'personalized VERP': (
        Personalization.individual, {'verp': True}, PERSONAL, 'For Person'),
    }


def set_template(uri, username, password):
    """Set the list's footer, as Postorius does; to be called at the site."""
    getUtility(ITemplateManager).set(FOOTER, LIST_ID, uri, username, password)


def no_answer(handler):
    """Say nothing until the client is gone."""
    handler.rfile.read()


def trickle(handler):
    """Say a little again and again until the client is gone."""
    pause = threading.Event()
    handler.send_response(200)
    handler.end_headers()
    while True:
        handler.wfile.write(b'ants ')
        pause.wait(0.2)


class WebServer:
    """A web server; a context manager.

    :param answer: What it says: a text, a status, or a function of the
        request's handler that says it.
    :param port: Where to listen.
    :ivar requests: The paths that were asked for.
    """

    def __init__(self, answer=TEXT, port=None):
        self.port = free_port() if port is None else port
        self.answer = answer
        self.requests = []

    def uri(self, path='/footer', login=''):
        """The URI of a path.

        :param login: A user name and a password, with an at sign.
        """
        return f'http://{login}{HOST}:{self.port}{path}'

    def __enter__(self):
        web = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                web.requests.append(self.path)
                web._answer(self)

            def log_message(self, *ignore):
                pass

        class Server(ThreadingHTTPServer):
            def handle_error(self, *ignore):
                # The client has had enough.
                pass
        self._server = Server((HOST, self.port), Handler)
        threading.Thread(
            target=self._server.serve_forever, args=(0.05,)).start()
        return self

    def __exit__(self, *ignore):
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, handler):
        answer = self.answer
        if callable(answer):
            answer = answer(handler)
        if isinstance(answer, int):
            handler.send_error(answer)
        elif answer is not None:
            handler.send_response(200)
            handler.send_header('Content-Type', 'text/plain; charset=utf-8')
            handler.end_headers()
            handler.wfile.write(answer.encode())


class TemplateTestCase(SiteTestCase):
    """With a list whose footer is somewhere else."""

    def site_with_footer(self, uri, server=None, *, username=None,
                         password='', **options):
        site = self.site(server, members=12, **options)
        site.call(set_template, uri, username, password)
        return site

    def assertWaits(self, site, served=()):
        """The post is in the retry queue, and one line says why."""
        self.assertEachOnce(site, served, waiting=['retry'])
        entry, = site.queue('retry').entries
        # As `OutgoingRunner` keeps them.
        self.assertEqual(
            entry.msgdata['last_recip_count'], len(entry.recipients))
        self.assertIn('deliver_until', entry.msgdata)
        self.assertFalse(entry.msgdata.get('nodecorate'))
        self.assertQuiet(site)
        for secret in SECRETS:
            self.assertNotIn(secret, site.logs())
        line, = [line for line in site.log('smtp.log').splitlines()
                 if UNAVAILABLE in line]
        self.assertIn('<post@example.com>', line)
        return line

    def assertGoesOut(self, site, server, text='Mind the ants'):
        """Everybody gets the post, with its footer."""
        site.retry()
        site.run()
        self.assertEachOnce(site, server.served)
        for message in server.accepted:
            self.assertIn(text.encode(), message.content)
        self.assertQuiet(site)


class TestDown(TemplateTestCase):
    """The post waits, and goes out when the web server is back."""

    def test_kinds(self):
        for kind, (personalize, msgdata, footer, words) in KINDS.items():
            with self.subTest(kind):
                server = self.use(Scripted())
                web = WebServer(footer)
                site = self.site_with_footer(
                    web.uri(), server,
                    attributes={'personalize': personalize})
                site.run(msgdata)
                self.assertIn('refused', self.assertWaits(site))
                self.assertEqual(server.said('MAIL'), [])
                with web:
                    self.assertGoesOut(site, server, words)
                self.assertEqual(web.requests, ['/footer'])

    def test_answers(self):
        for answer, reason in ((503, '503'), (500, '500'), (429, '429'),
                               (no_answer, 'timed out'),
                               (trickle, 'within')):
            with self.subTest(answer=answer):
                server = self.use(Scripted())
                web = self.use(WebServer(answer))
                site = self.site_with_footer(web.uri(), server)
                site.run({'verp': True})
                self.assertIn(reason, self.assertWaits(site))
                # Once for a post is enough.
                self.assertEqual(web.requests, ['/footer'])
                web.answer = TEXT
                self.assertGoesOut(site, server)

    def test_nobody_accepts(self):
        # The system does, but no program.
        server = self.use(Scripted())
        with socket.create_server((HOST, 0)) as silent:
            site = self.site_with_footer(
                'http://{}:{}/footer'.format(*silent.getsockname()), server)
            site.run({'verp': False})
            self.assertWaits(site)

    def test_no_such_host(self):
        # With a mail server, for which the post would wait otherwise.
        site = self.site_with_footer(
            'http://ants.invalid/footer', self.use(Scripted()))
        site.run({'verp': True})
        self.assertIn('http://ants.invalid/footer', self.assertWaits(site))

    def test_no_such_file(self):
        # The directory is not mounted, say.
        server = self.use(Scripted())
        site = self.site_with_footer('file:///nowhere/footer', server)
        site.run({'verp': True})
        self.assertIn('/nowhere/footer', self.assertWaits(site))
        path = site.directory / 'footer'
        path.write_text(TEXT)
        site.call(set_template, f'file://{path}', None, '')
        self.assertGoesOut(site, server)

    def test_other_posts_go_out(self):
        server = self.use(Scripted())
        site = self.site_with_footer(WebServer().uri(), server)
        site.run({'verp': True},
                 {'verp': True, 'nodecorate': True})
        self.assertEqual(sorted(server.served), sorted(site.members))
        self.assertEqual(site.waiting(), {'retry': sorted(site.members)})


class TestMidway(TemplateTestCase):
    """Those who were served stay served."""

    def test_each_has_a_template(self):
        # Then the post is rendered one by one, by the reference.
        def answer(handler):
            name, = parse_qs(urlsplit(handler.path).query)['for']
            if broken and len(asked) >= 5:
                return 503
            asked.add(name)
            return TEXT
        asked, broken = set(), [True]
        server = self.use(Scripted())
        web = self.use(WebServer(answer))
        site = self.site_with_footer(
            web.uri('/footer?for=${user_email}'), server,
            attributes={'personalize': Personalization.individual})
        site.run({'verp': True})
        self.assertEqual(len(server.served), 5)
        self.assertWaits(site, server.served)
        broken.clear()
        self.assertGoesOut(site, server)


class TestAsStock(TemplateTestCase):
    """What the web server refuses is what Mailman makes of it."""

    @contextmanager
    def both(self, answer):
        contents = []
        with WebServer(answer) as web:
            for options in ({'outgoing': STOCK}, {}):
                server = self.use(Scripted())
                site = self.site_with_footer(web.uri(), server, **options)
                site.run({'verp': True})
                self.assertEachOnce(site, server.served)
                contents.append(
                    {message.content for message in server.accepted})
        yield contents

    def test_refused(self):
        for status in (404, 403, 410):
            with self.subTest(status=status), self.both(status) as contents:
                stock, ours = contents
                self.assertEqual(ours, stock)

    def test_found(self):
        with self.both(TEXT) as (stock, ours):
            self.assertEqual(ours, stock)


class TestSecrets(TemplateTestCase):
    def test_not_in_the_logs(self):
        for answer in (503, 404, None):
            with self.subTest(answer=answer):
                server = self.use(Scripted())
                web = WebServer(answer)
                if answer is not None:
                    self.use(web)
                site = self.site_with_footer(
                    web.uri(f'/footer?key={TOKEN}', f'ant:{PASSWORD}@'),
                    server, username='ant', password=PASSWORD)
                site.run({'verp': True})
                if answer == 404:
                    self.assertEachOnce(site, server.served)
                    for secret in SECRETS:
                        self.assertNotIn(secret, site.logs())
                else:
                    self.assertIn(f'http://{HOST}:{web.port}/footer',
                                  self.assertWaits(site))

    def test_login(self):
        def answer(handler):
            logins.append(handler.headers['Authorization'])
            return TEXT
        logins = []
        server = self.use(Scripted())
        web = self.use(WebServer(answer))
        site = self.site_with_footer(
            web.uri(), server, username='ant', password='x')
        site.run({'content': POST})
        self.assertEachOnce(site, server.served)
        self.assertEqual(logins, ['Basic YW50Ong='])
