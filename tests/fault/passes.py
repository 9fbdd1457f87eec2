# SPDX-License-Identifier: GPL-3.0-or-later

"""Posts to a server that refuses, is mended, and gets the rest.

A pass lasts until the `out` queue is empty.  Before the next one a test moves
the entries of the `retry` queue to `out`, as Mailman's retry runner does after
a quarter of an hour; the outgoing runner is the same one all the time.  Many
posts share a server, a site and a runner, one after the other, and the
accounts are done for each post.
"""

import time

from collections import Counter, defaultdict
from contextlib import ExitStack
from functools import partial
from mailman.core.switchboard import Switchboard
from mailman_mta_pool.strategies.order import in_order
from public import public
from tests.fault.cases import several
from tests.fault.rounds import numbered
from tests.scripted import Scripted
from tests.site import Site, SiteError
from tests.site_case import SiteTestCase
from typing import NamedTuple, Tuple


#: How long a pass may take, in seconds, unless the test says otherwise.
PASS_TIMEOUT = 90
#: Failed handshakes are not what takes the time, every post meets the server
#: anew, and a turn is short.
SHORT_TURN = {
    'pool': {'idle_timeout': 0},
    'delivery': {'patience': '2s', 'time_slice': '3s'}}
DATA = ('PIPELINING', 'AUTH PLAIN')
BDAT = ('PIPELINING', 'CHUNKING', 'AUTH PLAIN')
# Of 200 members, 30 are in the first domain and 30 in the last.
DOMAIN_SIZES = (30, *([14] * 10), 30)
public(PASS_TIMEOUT=PASS_TIMEOUT, SHORT_TURN=SHORT_TURN)


@public
class Way(NamedTuple):
    """The way in which posts are delivered.

    :ivar verp: Are they VERP'd?
    :ivar connections: The setting `max_delivery_threads`.
    :ivar extensions: What the server offers.
    """

    verp: bool
    connections: int
    extensions: Tuple[str, ...]


BULK_1 = Way(False, 1, DATA)
BULK_8 = Way(False, 8, BDAT)
VERP_1 = Way(True, 1, BDAT)
VERP_8 = Way(True, 8, DATA)
#: Each test that is for all ways has all of these.
WAYS = (BULK_1, VERP_8, BULK_8, VERP_1)
public(BULK_1=BULK_1, BULK_8=BULK_8, VERP_1=VERP_1, VERP_8=VERP_8, WAYS=WAYS)


def _members():
    for index, size in enumerate(DOMAIN_SIZES):
        for number in range(size):
            yield f'member-{number:02}@d{index:02}.example.com'


#: 200 members in 12 domains, in the order of delivery.
EVERYBODY = tuple(in_order(_members()))
#: 60 of them, five of each domain.
SOME = tuple(
    email for email in EVERYBODY if int(email.partition('@')[0][-2:]) < 5)
public(EVERYBODY=EVERYBODY, SOME=SOME)


@public
def is_end(command):
    """True if the answer to a command is the one to the whole content."""
    return command == '.' or (
        command.startswith('BDAT') and command.upper().endswith('LAST'))


@public
def refusing(stage, reply, to=None):
    """A script that always refuses at one stage.

    :param stage: A command's verb, `CONNECT`, or `end`.
    :param reply: The reply.  In it `{rcpt}` and `{sender}` stand for the
        addresses of the transaction.
    :param to: The recipients that are refused, by default all of them.
    """
    def script(command, session):
        if stage == 'end':
            if not is_end(command):
                return None
        elif command.partition(' ')[0] != stage:
            return None
        found = _path(command) if stage == 'RCPT' else ''
        if to is None or found in to or to.intersection(session.recipients):
            sender = _path(command) if stage == 'MAIL' else session.sender
            return reply.replace('{rcpt}', found).replace(
                '{sender}', sender or '')
    return script


@public
def refusing_new(stage, reply):
    """A script with which neither new nor old connections are of use.

    Where a connection is refused when it begins, the old ones are closed.

    :param stage: See `refusing`.
    :param reply: See `refusing`.
    """
    if stage in ('CONNECT', 'EHLO', 'AUTH'):
        return several(refusing(stage, reply),
                       refusing('MAIL', '421 4.3.2 Closing the connection'))
    return refusing(stage, reply)


def _path(command):
    return command.partition('<')[2].partition('>')[0]


@public
class Passes:
    """A server, a site and a runner for posts one after the other.

    A context manager.

    :ivar refuse: The server's script while it refuses; see `Scripted`.  With
        None it is mended.
    :ivar after: So many recipients of a post are served before the server
        begins to refuse.
    :ivar refusals: The commands that were refused since the last post, with
        their times in seconds.
    :ivar served: The recipients that were served since the last post.
    """

    def __init__(self, way, *, members=EVERYBODY, settings=None, delay=0,
                 **options):
        """Prepare it.

        :param way: The `Way` of delivery.
        :param members: The addresses of the members.
        :param settings: The plugin's settings.
        :param delay: See `Scripted`.
        :param options: Further ones for the site.
        """
        self.way = way
        self.refuse = None
        self.after = 0
        self.refusals = []
        self.recipients = []
        self._posts = 0
        self._accepted = 0
        self._commands = 0
        self._bounced = Counter()
        self._said = 0
        self._resources = ExitStack()
        self.server = Scripted(
            self._script, extensions=way.extensions, delay=delay)
        self._members = [(email, '') for email in members]
        self._options = dict(
            {'max_delivery_threads': way.connections}, settings=settings,
            **options)

    def __enter__(self):
        with ExitStack() as resources:
            resources.enter_context(self.server)
            self.site = resources.enter_context(Site(
                self.server, members=self._members, **self._options))
            resources.enter_context(self.site.runner())
            self._resources = resources.pop_all()
        return self

    def __exit__(self, *exception):
        return self._resources.__exit__(*exception)

    def _script(self, command, session):
        refuse = self.refuse
        if refuse is None or len(self.served) < self.after:
            return None
        reply = refuse(command, session)
        if reply is not None:
            self.refusals.append((time.monotonic(), command))
        return reply

    # The passes.

    def post(self, recipients=EVERYBODY, refuse=None, after=0, **msgdata):
        """Put a post into the `out` queue, and begin its accounts.

        :param recipients: Who gets it.
        :param refuse: What the server says while it is not mended.
        :param after: How many it serves before it begins to refuse.
        :param msgdata: Further metadata.
        """
        self.recipients = list(recipients)
        self.refusals = []
        self._accepted = len(self.server.accepted)
        self._commands = len(self.server.commands)
        self._bounced = Counter(self.site.bounced())
        self._said = len(self.site.log('smtp.log'))
        self._posts += 1
        self.refuse, self.after = refuse, after
        self.site.post(
            numbered(self._posts), verp=self.way.verp,
            recipients=set(recipients), **msgdata)

    def finish(self, timeout=PASS_TIMEOUT):
        """Wait for the end of the pass.

        :param timeout: In seconds.
        """
        self.site.wait_until_empty(timeout=timeout)

    def again(self, timeout=PASS_TIMEOUT):
        """Begin the next pass, and wait for its end.

        :param timeout: In seconds.
        """
        directory = str(self.site.var / 'queue' / 'out')
        for entry in self.site.queue('retry').entries:
            Switchboard('out', directory).enqueue(entry.msg, entry.msgdata)
            entry.path.unlink()
        self.finish(timeout)

    def mend(self):
        """Let the server serve everybody from now on.

        If it has refused the login for good, the operator finds out that it
        does so no more.
        """
        was_refusing, self.refuse = self.refuse is not None, None
        if was_refusing and any(
                'the login is refused with' in line for line in self.log()):
            self.site.mailman('mta-pool', 'check')

    def tidy(self):
        """Mend the server, and remove what the last post has left.

        :raises SiteError: if the last post is still under way.
        """
        self.mend()
        self.finish()
        for name in ('retry', 'shunt', 'bad'):
            for path in self.site.queue(name).files:
                path.unlink()

    # The accounts.

    @property
    def served(self):
        """Every recipient of every message accepted since the last post."""
        return [recipient
                for message in self.server.accepted[self._accepted:]
                for recipient in message.recipients]

    def said(self, verb):
        """Return the commands of that verb since the last post."""
        return [command
                for _, command in self.server.commands[self._commands:]
                if command.partition(' ')[0] == verb]

    def ends(self):
        """Tell how everybody ended, as far as this post is concerned.

        :return: A dictionary of addresses and sorted lists of 'served', once
            for each copy, 'bounced', once for each bounce, and the names of
            queues.
        """
        found = defaultdict(list)
        for recipient in self.served:
            found[recipient].append('served')
        bounced = Counter(self.site.bounced())
        for recipient in (bounced - self._bounced).elements():
            found[recipient].append('bounced')
        for queue, recipients in self.site.waiting().items():
            for recipient in recipients:
                found[recipient].append(queue)
        return {recipient: sorted(each) for recipient, each in found.items()}

    def log(self):
        """What smtp.log says since the last post.

        :return: Its lines, but for the ones that stock Mailman has for each
            recipient, too.
        """
        lines = self.site.log('smtp.log')[self._said:].splitlines()
        return [line for line in lines if ' delivery to ' not in line]


@public
class PassesTestCase(SiteTestCase):
    """A test case with passes."""

    def assertEnds(self, passes, **ends):
        """Everybody ended as expected, and nobody else got anything.

        :param passes: The `Passes`.
        :param ends: For each end, its recipients.
        """
        expected = {recipient: [end] for end, recipients in ends.items()
                    for recipient in recipients}
        self.assertEqual(sorted(expected), sorted(passes.recipients))
        found = passes.ends()
        wrong = {recipient: (end, found.get(recipient, 'lost'))
                 for recipient, end in expected.items()
                 if found.get(recipient) != end}
        self._assertNone(wrong, passes)
        self.assertEqual(sorted(set(found) - set(expected)), [])

    def assertServedOrWaiting(self, passes):
        """Each was served once or waits in the retry queue.

        Nobody is lost, bounced, shunted or served twice.

        :param passes: The `Passes`.
        """
        found = passes.ends()
        wrong = {recipient: found.get(recipient, 'lost')
                 for recipient in passes.recipients
                 if found.get(recipient) not in (['served'], ['retry'])}
        self._assertNone(wrong, passes)
        self.assertEqual(sorted(set(found) - set(passes.recipients)), [])

    def _assertNone(self, wrong, passes):
        if wrong:
            # There may be 200 of them.
            some = dict(list(wrong.items())[:5])
            self.fail(f'{len(wrong)} such as {some}; {passes.log()[-5:]}')

    def each(self, passes, rows):
        """Go through rows as subtests, each from a clean state.

        :param passes: The `Passes`.
        :param rows: Pairs of a name, which may be any value, and a function
            without arguments.
        """
        for name, row in rows:
            with self.subTest(name):
                row()
            try:
                passes.tidy()
            except SiteError as error:
                self.fail(f'{name}: {error}')
        self.assertQuiet(passes.site)

    def spare_all(self, way, rows):
        """Let a server give these answers to everybody, and be mended.

        Half of the rows are given from the start, the other half after 50
        recipients; in all `WAYS` together each row is given twice so and
        twice so.

        :param way: The `Way`.
        :param rows: Pairs of a stage and a reply; see `refusing`.
        """
        number = WAYS.index(way)
        with unavailable(way) as passes:
            self.each(passes, [
                from_the_start(self, passes, row) if (index + number) % 2
                else after_50(self, passes, row)
                for index, row in enumerate(rows)])

    def spared(self, passes, recipients, refuse, after):
        """A server refuses everybody, and is mended: all get the post.

        :param passes: The `Passes`.
        :param recipients: Who gets the post.
        :param refuse: The script of the server.
        :param after: How many it serves before.
        """
        passes.post(recipients, refuse, after)
        passes.finish()
        self.assertTrue(passes.refusals)
        self.assertServedOrWaiting(passes)
        served = len(passes.served)
        self.assertGreaterEqual(served, after)
        self.assertLess(served, len(recipients))
        passes.mend()
        passes.again()
        self.assertEnds(passes, served=recipients)


@public
def unavailable(way):
    """Make passes for answers about everything that we send."""
    return Passes(way, settings=SHORT_TURN, smtp_user='ant',
                  smtp_pass='Zebra-7')


@public
def from_the_start(test, passes, row):
    """Return a subtest in which a row is answered from the start.

    :param test: The `PassesTestCase`.
    :param passes: The `Passes`.
    :param row: A stage and a reply; see `refusing`.
    """
    return (row, 'from the start'), partial(
        test.spared, passes, SOME, refusing(*row), 0)


@public
def after_50(test, passes, row, recipients=EVERYBODY, count=50):
    """Return a subtest in which a row is answered after 50 recipients.

    :param test: The `PassesTestCase`.
    :param passes: The `Passes`.
    :param row: A stage and a reply; see `refusing_new`.
    :param recipients: Who gets the post.
    :param count: After how many the server begins to answer so.
    """
    return (row, f'after {count}'), partial(
        test.spared, passes, recipients, refusing_new(*row), count)
