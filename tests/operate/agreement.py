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
from tests.scripted import Scripted
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

    def test_one_post(self):
        server = self.use(Scripted(extensions=BY_CHUNKS))
        site = self.make(server, 20_000)
        site.post(verp=True)
        seen = []
        with site.runner():
            while len(server.served) < 20_000:
                before = len(server.served)
                first, second, _ = self.accepted(site)
                # Never more than the server has accepted by then.
                self.assertLessEqual(first, second)
                self.assertLessEqual(second, len(server.served))
                values = json.loads(self.ask(PLUGIN))
                if values['posts']:
                    post, = values['posts']
                    self.assertEqual((post['list'], post['total']),
                                     (LIST, 20_000))
                    self.assertLessEqual(
                        post['accepted'] +
                        values['queues']['out']['recipients'], 20_000)
                    seen.append((before, post['accepted']))
            site.wait_until_empty(timeout=100)
        self.assertGreater(len({accepted for _, accepted in seen}), 3)
        self.assertEqual(self.accepted(site), (20_000, 20_000, [20_000] * 2))
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

    def test_divided_post(self):
        server = self.use(Scripted(extensions=BY_CHUNKS, delay=0.001))
        site = self.make(server, 2000, TWO_SLICES, delivery={'split': 250})
        site.post(numbered(0), verp=True)
        totals, accepted = set(), []
        with site.runner('out:0:2'), site.runner('out:1:2'):
            while len(server.served) < 2000:
                for post in json.loads(self.ask(PLUGIN))['posts']:
                    totals.add(post['total'])
                    accepted.append(post['accepted'])
            site.wait_until_empty(timeout=100)
        # It is one post from the beginning to the end.
        self.assertEqual(totals, {2000})
        self.assertGreater(len(set(accepted)), 2)
        self.assertEqual(accepted, sorted(accepted))
        self.assertEqual(self.accepted(site)[:2], (2000, 2000))
        last, = json.loads(self.ask(PLUGIN))['last_posts']
        self.assertEqual((last['total'], last['accepted']), (2000, 2000))

    def test_killed(self):
        server = self.use(Scripted(delay=0.002))
        site = self.make(server, 1000)
        path = site.post(verp=True)
        runner = site.start_runner()
        server.wait_for(lambda server: len(server.accepted) >= 300)
        runner.kill()
        values = json.loads(self.ask(PLUGIN))
        self.assertEqual(values['queues']['out']['entries'], 1)
        self.assertTrue(path.with_suffix('.bak').exists())
        left = values['queues']['out']['recipients']
        self.assertLess(left, 1000)
        site.run()
        self.assertEqual(runner.status, -signal.SIGKILL)
        values = json.loads(self.ask(PLUGIN))
        self.assertEqual(values['recipients']['accepted'], 1000)
        self.assertEqual(values['queues']['out']['recipients'], 0)
