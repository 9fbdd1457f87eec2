# SPDX-License-Identifier: GPL-3.0-or-later
"""The state files of real runners, and what they say of the server's work."""

import os
import re
import sys
import json
import stat
import signal
import sqlite3
import threading
import subprocess

from contextlib import closing, contextmanager, suppress
from datetime import datetime
from mailman_mta_pool.monitoring.files import read_states, state_directory
from mailman_mta_pool.monitoring.state import OUTCOMES, state_from_json
from tests.fault.rounds import numbered
from tests.operate.gated import Gated
from tests.scripted import CLOSE, HANG, Scripted
from tests.site import LIST
from tests.site_case import SiteTestCase


BY_CHUNKS = 'PIPELINING', 'CHUNKING', 'SIZE 0', '8BITMIME'
NUMBER = re.compile(rb'^Subject: Post number (\d+)', re.MULTILINE)
GOES_ON = 'a delivery that was broken off goes on'
TWO_SLICES = '[runner.out]\ninstances: 2\n'
# Those of a digest of 160 bits that are slice 0 of 2.
HALF = 2 ** 159
NOT_WRITTEN = 'out-0-of-1.json cannot be written'


def path_of(site, name='out-0-of-1'):
    return site.var / 'mta_pool' / 'state' / f'{name}.json'


def state_of(site, name='out-0-of-1'):
    return state_from_json(path_of(site, name).read_text())


def states_of(site):
    found = read_states(state_directory(str(site.var)))
    if found.problems:
        raise AssertionError(found.problems)
    return found.states


def total(site, outcome='accepted'):
    return sum(state.recipients[outcome] for state in states_of(site))


def counters_of(state):
    """Yield the name and the value of each counter of a slice."""
    for outcome in OUTCOMES:
        yield outcome, state.recipients[outcome]
    yield 'messages', state.messages
    yield 'posts', state.posts_ended
    for phase, durations in state.phases.items():
        yield phase, durations.seconds
        for index, number in enumerate(durations.counts):
            yield f'{phase} {index}', number
    for relay in state.relays:
        for name in ('opened', 'reused', 'lost'):
            yield f'{relay.name} {name}', getattr(relay, name)


class Watch(threading.Thread):
    """Reads the state files time and again, as a monitoring system does.

    :ivar falls: The counters that were less than before.
    :ivar seen: The different states that were read, the oldest first.
    """

    def __init__(self, site):
        super().__init__(daemon=True)
        self._site = site
        self._over = threading.Event()
        self._last = {}
        self.falls = []
        self.problems = []
        self.seen = []

    def run(self):
        while not self._over.wait(0.02):
            self.look()

    def look(self):
        found = read_states(state_directory(str(self._site.var)))
        self.problems.extend(found.problems)
        for state in found.states:
            if self.seen and self.seen[-1] == state:
                continue
            self.seen.append(state)
            for name, value in counters_of(state):
                before = self._last.get((state.slice, name), 0)
                if value < before:
                    self.falls.append((state.slice, name, before, value))
                self._last[state.slice, name] = value

    def end(self):
        self._over.set()
        self.join()
        self.look()


class StateTestCase(SiteTestCase):
    @contextmanager
    def watched(self, site):
        watch = Watch(site)
        watch.start()
        try:
            yield watch
        finally:
            watch.end()
        self.assertEqual(watch.falls, [])
        self.assertEqual(watch.problems, [])

    def wait_for_total(self, site, number):
        """Wait until so many recipients are accepted, say the files."""
        site.wait_for(lambda: total(site) == number, f'{number} recipients')


class TestPost(StateTestCase):
    """One post, from its beginning to its end."""

    def test_moving(self):
        server = self.use(Gated(extensions=BY_CHUNKS))
        site = self.site(server, members=20_000)
        textfile = site.directory / 'mailman.prom'
        site.set_up(server, settings={
            'metrics': {'textfile': textfile, 'lists': 1}})
        site.post(verp=True)
        with self.watched(site), site.runner():
            for number in (1, 5000, 15_000):
                server.let(number - len(server.accepted))
                self.wait_for_total(site, number)
                state = site.wait_for(
                    lambda: self.in_flight(site), 'a message in flight')
                post, = state.posts
                self.assertEqual(
                    (post.list_name, post.total, post.accepted,
                     state.recipients['accepted'], state.working),
                    (LIST, 20_000, number, number, True))
            server.let_all()
            site.wait_until_empty(timeout=300)
        self.assertEqual(len(server.served), 20_000)
        state = state_of(site)
        self.assertFalse(state.working)
        self.assertEqual(state.posts, [])
        self.assertEqual(state.recipients['accepted'], 20_000)
        self.assertEqual(state.lists, {LIST: state.recipients})
        self.assertEqual(state.messages, len(server.accepted))
        post, = state.last_posts
        self.assertEqual(
            (post.message_id, post.total, post.accepted),
            ('<post@example.com>', 20_000, 20_000))
        self.assertGreater(post.rate, 0)
        relay, = state.relays
        self.assertEqual(
            (relay.name, relay.state, relay.opened, relay.connections),
            (f'{server.host}:{server.port}', 'up', server.connections, 0))
        for phase in ('resolve', 'connect', 'greeting', 'hello'):
            self.assertEqual(
                sum(state.phases[phase].counts), server.connections, phase)
        self.assertEqual(sum(state.phases['message'].counts), 20_000)
        self.assertEqual(sum(number for _, number in state.minutes), 20_000)
        self.assertEqual(
            stat.S_IMODE(path_of(site).stat().st_mode), 0o600)
        self.assertPublished(textfile, 20_000)
        self.assertQuiet(site)

    def assertPublished(self, textfile, accepted):
        # The metrics say the same, and anybody may read them.
        self.assertEqual(stat.S_IMODE(textfile.stat().st_mode), 0o644)
        self.assertRegex(
            textfile.read_text(),
            rf'recipients_total\{{outcome="accepted"\}} {accepted}(\.0)?\n')
        self.assertEqual(
            [path.name for path in textfile.parent.iterdir()
             if path.name.startswith('.')], [])

    def end_of_turn(self, site, server):
        """Let a turn end; return the post as the state file had it last."""
        self.wait_for_total(site, len(server.accepted))
        # Nothing is accepted, and the time passes.
        site.wait_for(lambda: state_of(site).posts and state_of(
            site).written > state_of(site).posts[0].started + 1,
            'the end of the time slice')
        last, = posts = state_of(site).posts
        while [post.entry for post in posts] == [last.entry]:
            last, = posts
            server.let(1)
            self.wait_for_total(site, len(server.accepted))
            posts = state_of(site).posts
        return last

    def in_flight(self, site):
        """Return the state of the slice if a message is in flight."""
        state = state_of(site)
        return state if state.relays[0].in_flight else None

    def test_outcomes_and_causes(self):
        def script(command, session):
            number = re.search(r'RCPT TO:<(\d+)', command)
            member = members.get(command[command.find('<') + 1:-1])
            if number or member is None or 'RCPT' not in command:
                return None
            if member < 5:
                return (f'550 5.1.1 <{site.members[member]}>: user unknown, '
                        f'id {member}AF')
            if member < 8:
                return f'452 4.2.2 <{site.members[member]}> is over quota'
        server = self.use(Scripted(script))
        site = self.site(server, members=40)
        members = {address: number
                   for number, address in enumerate(site.members)}
        site.run({'verp': True})
        state = state_of(site)
        self.assertEqual(state.recipients, {
            'accepted': 32, 'refused': 5, 'deferred': 3, 'in_doubt': 0,
            'shunted': 0, 'discarded': 0})
        post, = state.last_posts
        self.assertEqual(post.outcomes, state.recipients)
        self.assertEqual(
            [(each.outcome, each.count) for each in post.failures],
            [('refused', 5), ('deferred', 3)])
        self.assertIn('550 5.1.1 <...>: user unknown',
                      post.failures[0].reply)
        text = path_of(site).read_text()
        for address in site.members:
            self.assertNotIn(address, text)
        # They are accepted in the end, and the post is told of once.
        mended = self.use(Scripted())
        site.set_up(mended)
        site.retry()
        site.run()
        state = state_of(site)
        self.assertEqual(state.recipients['accepted'], 35)
        post, = state.last_posts
        self.assertEqual(post.total, 40)
        self.assertEqual(post.outcomes, {
            'accepted': 35, 'refused': 5, 'deferred': 0, 'in_doubt': 0,
            'shunted': 0, 'discarded': 0})
        self.assertEqual(
            [(each.outcome, each.count) for each in post.failures],
            [('refused', 5)])
        # The relay of before has kept its counters.
        self.assertEqual(
            [(relay.name, relay.opened > 0, relay.state)
             for relay in state.relays],
            [(f'{mended.host}:{mended.port}', True, 'up'),
             (f'{server.host}:{server.port}', True, 'unknown')])
        self.assertQuiet(site)

    def test_relay_that_is_down(self):
        site = self.site(settings={'delivery': {'patience': 0}})
        site.run({'verp': True})
        state = state_of(site)
        relay, = state.relays
        self.assertEqual(relay.state, 'down')
        self.assertIn('refused', relay.reason)
        self.assertEqual(state.recipients['deferred'], 20)
        post, = state.last_posts
        cause, = post.failures
        self.assertEqual((cause.outcome, cause.count), ('deferred', 20))
        self.assertIn('refused', cause.reply)

    def test_relay_that_pauses(self):
        words = '450 4.7.1 Rate limit exceeded for {}, try again in 2 hours'

        def script(command, session):
            if command.startswith('RCPT'):
                address = command[command.find('<'):command.find('>') + 1]
                return words.format(address)
        server = self.use(Scripted(script))
        site = self.site(server, settings={'delivery': {'patience': 0}})
        site.run({'verp': True})
        relay, = state_of(site).relays
        self.assertEqual(
            (relay.state, relay.reason),
            ('paused', '450 4.7.1 Rate limit exceeded for <...>, try again '
             'in 2 hours'))
        self.assertGreater(relay.pause, 7000)
        self.assertEqual(total(site, 'deferred'), 20)

    def test_connections_that_are_lost(self):
        def script(command, session):
            if command == '.' and session.number == 1 and server.accepted:
                return CLOSE
        server = self.use(Scripted(script))
        site = self.site(server, max_delivery_threads=1)
        site.run({'verp': True})
        state = state_of(site)
        relay, = state.relays
        self.assertEqual((relay.opened, relay.lost), (2, 1))
        self.assertGreater(state.recipients['in_doubt'], 0)
        post, = state.last_posts
        self.assertEqual(
            post.outcomes['accepted'] + post.outcomes['in_doubt'], 20)
        self.assertEqual(
            [each.outcome for each in post.failures], ['in_doubt'])

    def discarded(self, refused):
        # When the time is over that [mta] delivery_retry_period allows.
        def script(command, session):
            if command.startswith('RCPT'):
                return ('550 5.1.1 Unknown' if command.partition(
                    '<')[2].startswith(refused) else '452 4.2.2 Full')
        server = self.use(Scripted(script))
        site = self.site(server)
        final = sum(member.startswith(refused) for member in site.members)
        site.post(verp=True, last_recip_count=20 - final,
                  deliver_until=datetime(2020, 1, 1))
        with site.runner():
            site.wait_until_empty()
        self.assertEqual(site.waiting(), {})
        state = state_of(site)
        self.assertEqual(state.recipients['deferred'], 20 - final)
        self.assertEqual(state.recipients['discarded'], 20 - final)
        post, = state.last_posts
        self.assertEqual(
            (post.outcomes['deferred'], post.outcomes['discarded']),
            (0, 20 - final))
        return final

    def test_discarded_by_mailman(self):
        self.assertEqual(self.discarded(('nobody-has-this-name',)), 0)

    def test_discarded_by_us(self):
        # Some were refused for good, so the others are in our hands.
        site = self.site()
        self.assertGreater(
            self.discarded((site.members[0], site.members[1])), 0)

    def test_message_that_is_shunted(self):
        server = self.use(Scripted(
            lambda command, session: '552 5.3.4 Message too big'
            if command.startswith('MAIL') else None))
        site = self.site(server)
        site.run({'verp': True})
        state = state_of(site)
        self.assertEqual(state.recipients['shunted'], 20)
        post, = state.last_posts
        self.assertEqual(post.outcomes['shunted'], 20)
        self.assertIn('Message too big', post.failures[0].reply)

    def test_turns(self):
        # A post of several turns is told of as one.
        server = self.use(Gated())
        site = self.site(
            server, members=600, max_delivery_threads=1,
            settings={'delivery': {'time_slice': '1s'}})
        by_post = {}
        with self.watched(site):
            for number in range(2):
                site.post(numbered(number), verp=True)
            with site.runner():
                server.let(100)
                for _ in range(4):
                    post = self.end_of_turn(site, server)
                    by_post.setdefault(post.message_id, []).append(post)
                server.let_all()
                site.wait_until_empty(timeout=120)
        self.assertEqual(sorted(server.served), sorted(site.members * 2))
        self.assertEqual(len(by_post), 2)
        for posts in by_post.values():
            first, second = posts
            self.assertNotEqual(first.entry, second.entry)
            self.assertEqual(first.origin, second.origin)
            self.assertEqual((first.total, second.total), (600, 600))
            self.assertLess(first.accepted, second.accepted)
        state = state_of(site)
        self.assertEqual(
            sorted((post.message_id, post.accepted)
                   for post in state.last_posts),
            [('<post-0@example.com>', 600), ('<post-1@example.com>', 600)])
        self.assertEqual(state.recipients['accepted'], 1200)
        self.assertEqual(state.posts_ended, 2)


class TestKilled(StateTestCase):
    """SIGKILL in mid-post, ten times."""

    def numbers(self, server):
        """Return the different pairs of a post's number and a recipient."""
        return {(int(NUMBER.search(message.content)[1]), recipient)
                for message in list(server.accepted)
                for recipient in message.recipients}

    def test_one_post(self):
        server = self.use(Gated())
        site = self.site(server, members=1000, max_delivery_threads=4)
        site.post(numbered(0), verp=True)
        with self.watched(site):
            for number in range(10):
                runner = site.start_runner()
                server.let(60 + number)
                if number % 2:
                    self.wait_for_total(site, len(self.numbers(server)))
                runner.kill()
                server.drop()
                # Mailman leaves a half-made entry there for ever.
                for path in site.queue('out').files:
                    if path.suffix == '.tmp':
                        path.unlink()
            server.let_all()
            site.run()
        self.assertEqual(site.log('smtp.log').count(GOES_ON), 10)
        self.assertEqual(len(self.numbers(server)), 1000)
        self.assertEqual(total(site), 1000)
        self.assertEqual(state_of(site).messages, 1000)
        post, = state_of(site).last_posts
        self.assertEqual((post.total, post.accepted), (1000, 1000))
        # Nothing is remembered of the entries of before.
        self.assertLessEqual(len(state_of(site).counted), 2)

    def post_to(self, index, site, number):
        """Put a post in the queue, for slice 0 or 1 of 2."""
        out = site.var / 'queue' / 'out'
        out.mkdir(parents=True, exist_ok=True)
        while True:
            # The other slice is at work in its queue.
            path = site.post(numbered(number), 'aside', verp=True)
            if int(path.stem.partition('+')[2], 16) // HALF == index:
                path.rename(out / path.name)
                return
            # The digest depends on the time.
            path.unlink()

    def test_one_of_two_slices(self):
        server, steady = self.use(Gated()), self.use(Scripted())
        site = self.site(steady, members=200, max_delivery_threads=2,
                         extra=TWO_SLICES)
        # It keeps this server.
        other = site.start_runner('out:1:2')
        with self.watched(site):
            self.post_to(1, site, 100)
            steady.wait_for(lambda server: server.accepted)
            site.set_up(server, max_delivery_threads=2, extra=TWO_SLICES)
            for number in range(10):
                self.post_to(0, site, number)
                self.post_to(1, site, 101 + number)
                runner = site.start_runner('out:0:2')
                server.let(50)
                runner.kill()
                server.drop()
                self.assertTrue(other.running)
            server.let_all()
            runner = site.start_runner('out:0:2')
            site.wait_until_empty(timeout=300)
            for each in (runner, other):
                each.signal(signal.SIGTERM)
            for each in (runner, other):
                self.assertEqual(each.wait(60), signal.SIGTERM)
        self.assertEqual(
            {state.slice for state in states_of(site)},
            {'out-0-of-2', 'out-1-of-2'})
        # The rest of a post that goes on may be an entry of the other slice.
        self.assertGreater(site.log('smtp.log').count(GOES_ON), 0)
        served = self.numbers(server) | self.numbers(steady)
        self.assertEqual(len(served), 21 * 200)
        self.assertEqual(total(site), len(served))
        self.assertEqual(
            sum(state.messages for state in states_of(site)), len(served))
        # What the servers have twice was in flight.
        self.assertLessEqual(len(server.served) + len(steady.served),
                             len(served) + 10 * 2 * 2)
        self.assertQuiet(site)

    def test_after_the_last_answer(self):
        # Killed when all had got it, before the entry was gone.
        server = self.use(Scripted(
            lambda command, session: HANG
            if command == '.' and len(server.accepted) == 19 else None))
        site = self.site(server, max_delivery_threads=1)
        site.post(verp=True)
        runner = site.start_runner()
        server.wait_for(lambda server: len(server.accepted) == 19)
        site.wait_for(
            lambda: path_of(site).exists() and total(site) == 19,
            'the state file')
        runner.kill()
        mended = self.use(Scripted())
        site.set_up(mended)
        site.run()
        self.assertEqual(len(mended.served), 1)
        self.assertEqual(total(site), 20)

    def statement(self, site, sql):
        with closing(sqlite3.connect(
                site.var / 'data' / 'mailman.db')) as database:
            database.execute(sql)
            database.commit()

    def test_shunted_and_unshunted(self):
        # The entry has another name then, and its journal, too.
        server = self.use(Scripted(
            lambda command, session: HANG
            if len(server.accepted) >= 20 else None))
        site = self.site(server, members=60, max_delivery_threads=1)
        site.post(verp=True)
        runner = site.start_runner()
        server.wait_for(lambda server: len(server.accepted) >= 20)
        site.wait_for(
            lambda: path_of(site).exists() and total(site) == 20,
            'the state file')
        runner.kill()
        mended = self.use(Scripted())
        site.set_up(mended)
        # The runner comes to grief before it calls us.
        self.statement(site, 'ALTER TABLE member RENAME TO gone')
        site.run()
        self.assertEqual(list(site.waiting()), ['shunt'])
        self.statement(site, 'ALTER TABLE gone RENAME TO member')
        # The numbers of the entry are not forgotten meanwhile.
        site.run({'recipients': set(site.members[:1])},
                 {'recipients': set(site.members[:1])})
        self.assertEqual(total(site), 22)
        site.mailman('unshunt')
        site.run()
        self.assertEqual(len(mended.served), 42)
        self.assertEqual(total(site), 62)


class TestTrouble(StateTestCase):
    """What harms nothing: a torn file, a full disk, no right to write."""

    def test_torn(self):
        server = self.use(Scripted())
        site = self.site(server)
        site.run({'verp': True})
        path = path_of(site)
        path.write_bytes(path.read_bytes()[:100])
        # What a runner leaves that is killed while it writes.
        torn = path.parent / f'.{path.name}.abcd'
        torn.write_text('{')
        site.run({'verp': True})
        self.assertEqual(
            site.log('smtp.log').count('out-0-of-1.json cannot be read'), 1)
        self.assertEqual(total(site), 20)
        self.assertFalse(torn.exists())
        self.assertQuiet(site)

    def test_goes_on(self):
        server = self.use(Scripted())
        site = self.site(server)
        for number in range(1, 4):
            site.run({'verp': True})
            self.assertEqual(total(site), 20 * number)
        self.assertEqual(state_of(site).posts_ended, 3)
        self.assertNotIn('cannot be read', site.logs())
        # Nobody was told of a first time but once.
        self.assertEqual(site.logs().count('is not there yet'), 1)

    def test_full(self):
        server = self.use(Scripted())
        site = self.site(server)
        directory = path_of(site).parent
        directory.mkdir(parents=True)
        if os.geteuid() != 0 or subprocess.run(
                ['mount', '-t', 'tmpfs', '-o', 'size=16k', 'none',
                 str(directory)], stderr=subprocess.DEVNULL).returncode:
            self.skipTest('may not mount a small file system')
        self.resources.callback(
            subprocess.run, ['umount', '--lazy', str(directory)], check=True)
        filler = directory / 'filler'
        with suppress(OSError), open(filler, 'wb', buffering=0) as fp:
            while True:
                fp.write(b'x' * 1024)
        with site.runner():
            for _ in range(2):
                site.post(verp=True)
                site.wait_until_empty()
            self.assertFalse(path_of(site).exists())
            self.assertEqual(site.log('smtp.log').count(NOT_WRITTEN), 1)
            filler.unlink()
            site.post(verp=True)
            site.wait_until_empty()
            # What was counted meanwhile is there.
            site.wait_for(lambda: path_of(site).exists(), 'the file')
            self.assertEqual(total(site), 60)
        self.assertEqual(len(server.served), 60)
        self.assertEqual(
            [path.name for path in directory.iterdir()
             if path.name.startswith('.')], [])
        self.assertIn('can be written again', site.log('smtp.log'))
        self.assertQuiet(site)

    def test_textfile_that_cannot_be_written(self):
        server = self.use(Scripted())
        site = self.site(server, settings={
            'metrics': {'textfile': '/nowhere/mailman.prom'}})
        site.run({'verp': True}, {'verp': True})
        self.assertEqual(len(server.served), 40)
        self.assertEqual(site.log('smtp.log').count(
            '[metrics] textfile cannot be written: /nowhere/'), 1)
        self.assertQuiet(site)

    def test_stock_takes_over(self):
        # The metadata of an entry that we made mean nothing to stock.
        server = self.use(Gated())
        site = self.site(
            server, members=200, max_delivery_threads=1,
            settings={'delivery': {'stop_timeout': '1s'}})
        site.post(verp=True)
        runner = site.start_runner()
        server.let(20)
        runner.signal(signal.SIGTERM)
        self.assertEqual(runner.wait(60), signal.SIGTERM)
        server.drop()
        entry, = site.queue('out').entries
        self.assertLess(len(entry.recipients), 200)
        server.let_all()
        site.set_up(server, outgoing='mailman.mta.deliver.deliver')
        site.run(timeout=120)
        # One was in doubt, and its turn has not come yet.
        self.assertEachOnce(site, server.served, ['retry'])

    def test_no_runner(self):
        # Another program that delivers keeps no state.
        server = self.use(Scripted())
        site = self.site(server)
        script = (
            'import sys; from mailman.core.initialize import initialize; '
            'initialize(sys.argv[1]); '
            'from mailman.config import config; '
            'from mailman.runners.outgoing import OutgoingRunner; '
            'runner = OutgoingRunner("out"); runner._one_iteration()')
        site.post(verp=True)
        subprocess.run(
            [sys.executable, '-c', script, str(site.configuration)],
            cwd=site.directory, check=True, timeout=60)
        self.assertEachOnce(site, server.served)
        self.assertFalse(path_of(site).exists())


class TestSecrets(StateTestCase):
    def test_no_password(self):
        user, password = 'zaphod', 'pa55-w0rd'
        server = self.use(Scripted(
            lambda command, session: f'535 5.7.8 {password} is wrong'
            if command.startswith('AUTH') else None,
            extensions=('AUTH PLAIN', 'SIZE 0')))
        site = self.site(server, smtp_user=user, smtp_pass=password)
        site.run({'verp': True})
        text = path_of(site).read_text()
        relay, = json.loads(text)['relays']
        self.assertEqual(relay['state'], 'down')
        self.assertIn('AUTH: 535', relay['reason'])
        for secret in (user, password):
            self.assertNotIn(secret, text)
