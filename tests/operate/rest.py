# SPDX-License-Identifier: GPL-3.0-or-later
"""The REST resource, asked of a real `rest` runner over HTTP.

Mailman 3.3.10 does not run its REST API with the newest falcon and SQLAlchemy,
so this is to be run with the versions of tests/debian12.txt or debian13.txt.
"""

import os
import json
import shutil
import unittest

from base64 import b64encode
from contextlib import suppress
from http.client import HTTPConnection
from importlib.resources import files
from jsonschema import Draft202012Validator
from mailman_mta_pool.monitoring.files import state_directory, write_whole
from mailman_mta_pool.monitoring.metrics import CONTENT_TYPE
from mailman_mta_pool.monitoring.state import PostState, SliceState
from subprocess import run
from tests.operate.command import mta_pool
from tests.servers.loopback import free_port, HOST
from tests.site import Site


PLUGIN = '/3.1/plugins/mta_pool'
METRICS = f'{PLUGIN}/metrics'
LOGIN = {'Authorization': 'Basic ' + b64encode(
    b'restadmin:restpass').decode()}
SCHEMA = Draft202012Validator(json.loads(files(
    'mailman_mta_pool.monitoring').joinpath(
    'status.schema.json').read_text('utf-8')))


class Answer:
    """What the REST API answered.

    :ivar status: The status, as a number.
    :ivar headers: The headers.
    :ivar text: The content.
    """

    def __init__(self, response):
        self.status = response.status
        self.headers = response.headers
        self.text = response.read().decode('utf-8')


class TestREST(unittest.TestCase):
    """One site with a `rest` runner for all tests."""

    @classmethod
    def setUpClass(cls):
        cls.port = free_port()
        cls.site = Site(members=20, extra=(
            f'[webservice]\nhostname: {HOST}\nport: {cls.port}\n'))
        cls.addClassCleanup(cls.site.close)
        cls.site.hold_master_lock()
        cls.runner = cls.site.start_runner('rest')
        cls.site.wait_for(cls.is_there, 'the REST API')

    @classmethod
    def is_there(cls):
        cls.site.check_runners()
        with suppress(OSError):
            return cls.ask(PLUGIN).status == 200

    @classmethod
    def ask(cls, path, method='GET', headers=LOGIN):
        connection = HTTPConnection(HOST, cls.port, timeout=60)
        try:
            connection.request(method, path, headers=headers)
            return Answer(connection.getresponse())
        finally:
            connection.close()

    def setUp(self):
        for directory in (self.site.var / 'queue' / 'out',
                          state_directory(str(self.site.var))):
            self.addCleanup(shutil.rmtree, directory, ignore_errors=True)

    def write(self, *states):
        directory = state_directory(str(self.site.var))
        os.makedirs(directory, exist_ok=True)
        for state in states:
            write_whole(os.path.join(directory, f'{state.slice}.json'),
                        state.to_json(), 0o600)

    def values(self):
        answer = self.ask(PLUGIN)
        self.assertEqual(answer.status, 200)
        self.assertEqual(
            answer.headers.get_content_type(), 'application/json')
        values = json.loads(answer.text)
        SCHEMA.validate(values)
        return values

    def metrics(self):
        answer = self.ask(METRICS)
        self.assertEqual(answer.status, 200)
        return answer

    def test_nothing_yet(self):
        values = self.values()
        self.assertEqual(values['posts'], [])
        self.assertEqual(values['queues']['shunt'], {
            'entries': 0, 'recipients': 0, 'oldest_age': None})
        self.assertIn(
            'mailman_mta_pool_recipients_total{outcome="accepted"} 0\n',
            self.metrics().text)

    def test_state(self):
        path = self.site.post()
        state = SliceState(
            slice='out-0-of-1', written=1.0, working=True,
            counted={path.stem: (7, 1)}, posts=[PostState(
                path.stem, message_id='<post@example.com>',
                list_name='ant@example.com', total=20,
                outcomes={'accepted': 7})])
        state.recipients['accepted'] = 7
        self.write(state)
        values = self.values()
        post, = values['posts']
        self.assertEqual((post['message_id'], post['accepted']),
                         ('<post@example.com>', 7))
        self.assertTrue(post['stalled'])
        self.assertEqual(values['queues']['out']['recipients'], 12)
        self.assertPrinted(values)

    def assertPrinted(self, values):
        """The command says the same, some moments later."""
        printed = json.loads(mta_pool(self.site, 'status', '--json').output)
        later = {'time': None, 'queues': None}
        self.assertEqual({**printed, **later}, {**values, **later})

    def test_mistake_in_the_configuration(self):
        own = self.site.directory / 'mta_pool.cfg'
        self.addCleanup(own.write_text, own.read_text())
        for text in '[delivery]\natempts: 3\n', '[delivery\n':
            with self.subTest(text=text):
                own.write_text(text)
                values = self.values()
                self.assertTrue(values['needs_operator'])
                self.assertIn(str(own), values['advice'][0])
                self.assertPrinted(values)
                self.metrics()

    def test_metrics(self):
        state = SliceState(slice='out-0-of-1')
        state.recipients['accepted'] = 7
        self.write(state)
        self.site.post()
        answer = self.metrics()
        self.assertEqual(answer.headers['Content-Type'], CONTENT_TYPE)
        for line in ('recipients_total{outcome="accepted"} 7',
                     'queue_recipients{queue="out"} 20'):
            self.assertIn(f'\nmailman_mta_pool_{line}\n', answer.text)

    @unittest.skipUnless(shutil.which('promtool'), 'there is no promtool')
    def test_promtool(self):
        self.write(SliceState(slice='out-0-of-1'))
        checked = run(['promtool', 'check', 'metrics'], capture_output=True,
                      input=self.metrics().text.encode())
        self.assertEqual((checked.returncode, checked.stdout, checked.stderr),
                         (0, b'', b''))

    def test_state_file_that_is_torn(self):
        self.write(SliceState(slice='out-0-of-1'))
        path = os.path.join(
            state_directory(str(self.site.var)), 'out-0-of-1.json')
        os.truncate(path, 20)
        values = self.values()
        self.assertTrue(values['needs_operator'])
        self.assertIn(path, values['advice'][0])
        self.metrics()

    def test_queue_that_is_missing(self):
        self.site.post()
        queue = self.site.var / 'queue'
        queue.rename(self.site.var / 'elsewhere')
        try:
            self.assertEqual(self.values()['queues']['out']['entries'], 0)
            self.metrics()
        finally:
            (self.site.var / 'elsewhere').rename(queue)

    def test_full_queue(self):
        path = self.site.post()
        for number in range(10_000):
            os.link(path, path.with_name(f'{number}.0+{number:040x}.pck'))
        values = self.values()
        self.assertEqual(values['queues']['out']['entries'], 10_001)
        self.metrics()

    def test_only_get(self):
        for path in PLUGIN, METRICS:
            for method in 'POST', 'PUT', 'PATCH', 'DELETE':
                with self.subTest(path=path, method=method):
                    answer = self.ask(path, method)
                    self.assertEqual(answer.status, 405)
                    self.assertEqual(
                        sorted(answer.headers['Allow'].split(', ')),
                        ['GET', 'OPTIONS'])

    def test_login(self):
        for path in PLUGIN, METRICS:
            for headers in {}, {'Authorization': 'Basic ' + b64encode(
                    b'restadmin:wrong').decode()}:
                answer = self.ask(path, headers=headers)
                self.assertEqual(answer.status, 401)
                self.assertNotIn('queue', answer.text)

    def test_no_such_thing(self):
        for path in (f'{PLUGIN}/nothing', f'{METRICS}/nothing',
                     '/3.1/plugins/nobody'):
            with self.subTest(path=path):
                self.assertEqual(self.ask(path).status, 404)

    def test_among_the_plugins(self):
        answer = self.ask('/3.1/plugins')
        self.assertIn('mailman_mta_pool.plugin.MTAPoolPlugin', answer.text)
