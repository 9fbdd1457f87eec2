# SPDX-License-Identifier: GPL-3.0-or-later
"""REST, metrics and overview of real runners say the same as the server.

Like tests/operate/rest.py this needs the versions of tests/debian12.txt or
debian13.txt.
"""

import re
import json
import signal

from base64 import b64encode
from contextlib import suppress
from http.client import HTTPConnection
from mailman_mta_pool.monitoring.overview import overview
from tests.fault.rounds import numbered
from tests.operate.gated import Gated
from tests.servers.loopback import free_port, HOST
from tests.site import LIST
from tests.site_case import SiteTestCase
from time import time


PLUGIN = '/3.1/plugins/mta_pool'
LOGIN = {'Authorization': 'Basic ' + b64encode(
    b'restadmin:restpass').decode()}
BY_CHUNKS = 'PIPELINING', 'CHUNKING', 'SIZE 0', '8BITMIME'
ACCEPTED = re.compile(
    r'^mailman_mta_pool_recipients_total\{outcome="accepted"\} (\d+)$',
    re.MULTILINE)
TWO_SLICES = '[runner.out]\ninstances: 2\nsleep_time: 0.1s\n'


class TestAgreement(SiteTestCase):
    def make(self, server, members, extra='', **settings):
        """Make a site with a `rest` runner and a textfile."""
        self.port = free_port()
        site = self.site(server, members=members)
        site.hold_master_lock()
        self.textfile = site.directory / 'mta_pool.prom'
        site.set_up(
            server, max_delivery_threads=4,
            settings={'metrics': {'textfile': self.textfile}, **settings},
            extra=f'[webservice]\nhostname: {HOST}\nport: {self.port}\n'
            f'{extra}')
        site.start_runner('rest')
        site.wait_for(lambda: self.is_there(site), 'the REST API')
        return site

    def is_there(self, site):
        site.check_runners()
        with suppress(OSError):
            return self.ask(PLUGIN) is not None

    def ask(self, path):
        connection = HTTPConnection(HOST, self.port, timeout=60)
        try:
            connection.request('GET', path, headers=LOGIN)
            response = connection.getresponse()
            self.assertEqual(response.status, 200)
            return response.read().decode('utf-8')
        finally:
            connection.close()

    def accepted(self, site):
        """Return the numbers of accepted recipients, each asked for later."""
        known = overview(str(site.var), str(site.var / 'queue'), time())
        texts = [self.ask(f'{PLUGIN}/metrics')]
        rest = json.loads(self.ask(PLUGIN))
        with suppress(FileNotFoundError):
            texts.append(self.textfile.read_text())
        return (known.recipients['accepted'], rest['recipients']['accepted'],
                [int(ACCEPTED.search(text)[1]) for text in texts])

    def wait_for(self, site, number):
        """Wait until all say that so many recipients are accepted."""
        site.wait_for(
            lambda: self.accepted(site) == (number, number, [number] * 2),
            f'{number} recipients')

    def test_one_post(self):
        server = self.use(Gated(extensions=BY_CHUNKS))
        site = self.make(server, 20_000)
        site.post(verp=True)
        with site.runner():
            for number in (1, 5000, 15_000):
                server.let(number - len(server.accepted))
                self.wait_for(site, number)
                values = json.loads(self.ask(PLUGIN))
                post, = values['posts']
                self.assertEqual(
                    (post['list'], post['total'], post['accepted']),
                    (LIST, 20_000, number))
                self.assertEqual(
                    values['queues']['out']['recipients'], 20_000 - number)
            server.let_all()
            while len(server.served) < 20_000:
                first, second, _ = self.accepted(site)
                # Never more than the server has accepted by then.
                self.assertLessEqual(first, second)
                self.assertLessEqual(second, len(server.served))
            site.wait_until_empty(timeout=300)
        self.wait_for(site, 20_000)
        values = json.loads(self.ask(PLUGIN))
        self.assertEqual(values['posts'], [])
        last, = values['last_posts']
        self.assertEqual((last['total'], last['accepted']), (20_000, 20_000))
        self.assertEqual(values['queues']['out'], {
            'entries': 0, 'recipients': 0, 'oldest_age': None})
        self.assertEqual(values['relays'][0]['connections'], 0)
        self.assertEqual((values['advice'], values['needs_operator']),
                         ([], False))
        self.assertQuiet(site)

    def totals(self):
        """Return how many recipients each post has, and has had."""
        return [(post['total'], post['accepted'])
                for post in json.loads(self.ask(PLUGIN))['posts']]

    def test_divided_post(self):
        server = self.use(Gated(extensions=BY_CHUNKS))
        site = self.make(server, 2000, TWO_SLICES, delivery={'split': 250})
        site.post(numbered(0), verp=True)
        with site.runner('out:0:2'), site.runner('out:1:2'):
            for number in (1, 700, 1400):
                server.let(number - len(server.accepted))
                # It is one post from the beginning to the end.
                site.wait_for(
                    lambda: self.totals() == [(2000, number)],
                    f'{number} recipients of one post')
            server.let_all()
            site.wait_until_empty(timeout=300)
        self.wait_for(site, 2000)
        last, = json.loads(self.ask(PLUGIN))['last_posts']
        self.assertEqual((last['total'], last['accepted']), (2000, 2000))

    def test_killed(self):
        server = self.use(Gated())
        site = self.make(server, 1000)
        path = site.post(verp=True)
        runner = site.start_runner()
        server.let(300)
        self.wait_for(site, 300)
        runner.kill()
        server.drop()
        values = json.loads(self.ask(PLUGIN))
        self.assertEqual(values['queues']['out']['entries'], 1)
        self.assertTrue(path.with_suffix('.bak').exists())
        self.assertEqual(values['queues']['out']['recipients'], 700)
        server.let_all()
        site.run()
        self.assertEqual(runner.status, -signal.SIGKILL)
        values = json.loads(self.ask(PLUGIN))
        self.assertEqual(values['recipients']['accepted'], 1000)
        self.assertEqual(values['queues']['out']['recipients'], 0)
