# SPDX-License-Identifier: GPL-3.0-or-later

"""Posts over relays that are simulated, in a time that passes at once.

The main thread, the network thread and the servers are one thread here, and
its loop has a clock of its own: where nothing is to be done it is set to the
next timer.  If there is none, nobody would ever go on.
"""

import random
import asyncio
import selectors

from collections import Counter, deque
from contextlib import suppress
from mailman_mta_pool.connection.addresses import Addresses
from mailman_mta_pool.dispatch.outbound import Outbound
from mailman_mta_pool.errors import (
    ConnectionLost,
    NothingMoreToSend,
    RelayUnavailable,
)
from mailman_mta_pool.interfaces import LATER
from mailman_mta_pool.limits.file import FileStorage
from mailman_mta_pool.limits.limit import Limit, Unit
from mailman_mta_pool.limits.limiter import Limiter
from mailman_mta_pool.relays.limiting import Allowance, PostLimits
from mailman_mta_pool.relays.pool import EndlessSlots, Pool
from mailman_mta_pool.relays.slots import Slots
from mailman_mta_pool.relays.throttle import Throttle
from mailman_mta_pool.settings import (
    About,
    Answer,
    DeliverySettings,
    PoolSettings,
    Rate,
    RelaySettings,
)
from mailman_mta_pool.settlement.catalogue import Catalogue
from mailman_mta_pool.settlement.ledger import Ledger, Post
from mailman_mta_pool.settlement.memory import Memory
from mailman_mta_pool.wire.content import Content
from mailman_mta_pool.wire.lessons import Lessons
from mailman_mta_pool.wire.replies import Reply
from mailman_mta_pool.wire.transaction import (
    Fate,
    Outcome,
    Result,
    Span,
    Stage,
    Transaction,
)
from public import public
from tests.limits.simulated import quick_directory
from tests.settlement.world import reply


SECOND = 1_000_000
# What is less than that, in seconds, is what floating point numbers make.
NOTHING = 1e-6
# No post takes longer, in seconds.
LONGEST = 6 * 3600.0
PLAIN = 'ant-bounces@example.com'
CONTENT = Content(b'Subject: x\r\n\r\nx\r\n')
OK = Reply(250, (b'2.0.0 Ok',))
NOT_SENT = Result(Fate.not_attempted, Stage.connect, None)
IN_DOUBT = Result(Fate.in_doubt, Stage.end, None)
SLOWLY = '450 Slowly'
ANSWERS = (
    Answer('rate', frozenset(['rcpt']), ('450',), (), 'Slowly', About.rate,
           None, '', ''),
    Answer('quota', frozenset(['rcpt']), ('450',), (), 'Enough', About.quota,
           3600.0, '', ''))
public(SLOWLY=SLOWLY)


@public
class Hang(Exception):
    """Nothing will ever happen any more, or not for ever so long."""


class _Selector(selectors.SelectSelector):
    """Does not wait: it sets the clock.

    :ivar now: What the clock of the loop says.
    """

    # Nothing in these worlds takes so long.
    END = 40 * 86400.0

    def __init__(self):
        super().__init__()
        self.now = 1000.0
        self._turns = 0

    def select(self, timeout=None):
        found = super().select(0)
        if found or timeout is not None and timeout <= 0:
            # Whoever does something again and again does not wait.
            self._turns += 1
            self.now += 1e-9
            if self._turns > 20_000:
                raise Hang('something is done for ever, at one moment')
            return found
        if timeout is None or self.now > self.END:
            raise Hang(f'at {self.now:.3f} s')
        self._turns = 0
        self.now += timeout
        return found


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self):
        self.selector = _Selector()
        super().__init__(self.selector)
        self.mistakes = []
        self.has_hung = False
        self.set_exception_handler(
            lambda loop, context: self.mistakes.append(context))

    def time(self):
        return self.selector.now

    def run_forever(self):
        try:
            super().run_forever()
        except Hang:
            self.has_hung = True
            raise

    def run_in_executor(self, executor, function, *args):
        future = self.create_future()
        future.set_result(function(*args))
        return future


class _Clock:
    """A `HostClock` that is the loop's."""

    boot = 1

    def __init__(self, loop):
        self._loop = loop

    def running(self):
        return round(self._loop.time() * SECOND)

    def wall(self):
        return self.running() + 1_700_000_000 * SECOND


class _Border:
    """A `Border` between two ends of one thread.

    :ivar tick: How often the main thread looks at the clock, in seconds, if
        it waits for nothing else; None if there is nothing to see.
    :ivar deadline: Until when everything has to be over.
    """

    is_running = is_here = True

    def __init__(self, loop):
        self._loop = loop
        self._told = asyncio.Event()
        self.tick = None
        self.deadline = float('inf')

    def post(self, function, *args):
        self._loop.call_soon(function, *args)

    def call(self, function, *args):
        return self._loop.run_until_complete(function(*args))

    def wait(self, is_ready, seconds):
        if self._loop.time() > self.deadline:
            raise Hang('the deadline')
        self._loop.run_until_complete(self._wait(is_ready))
        return is_ready()

    async def _wait(self, is_ready):
        end = None if self.tick is None else self._loop.time() + self.tick
        while not is_ready() and (
                end is None or end - self._loop.time() > NOTHING):
            self._told.clear()
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(
                    self._told.wait(),
                    None if end is None else end - self._loop.time())

    def notify(self):
        self._told.set()


@public
class Server:
    """A relay, the server behind it, and what befalls that server.

    :ivar accepted: The recipients of what it accepted, and when that came.
    :ivar arrivals: When each message came, refused or not.
    :ivar opened: When each connection was opened.
    :ivar most: How many connections there were at the same time.
    """

    def __init__(self, world, name, *, connections=2, depth=1, seconds=0.01,
                 trip=0.01, allowed=None, word=lambda server, name: None,
                 message_rate=(), recipient_rate=(), connect_rate=(),
                 slots=None, **settings):
        """Begin; the server is there.

        :param connections: The relay's `max_connections`, in this process.
        :param depth: Transactions in flight on a connection.
        :param seconds: How long it takes for a message, on each connection.
        :param trip: How long a packet is on its way at most, in seconds.
        :param allowed: How many connections the server takes; None for any.
        :param word: Returns what it says to a recipient, a reply, or None.
        :param slots: The `ISlots`, or None.
        :param settings: More of the relay's settings.
        """
        loop = world.loop
        self.world = world
        self.name = name
        self.settings = RelaySettings(
            name=name, message_rate=message_rate,
            recipient_rate=recipient_rate, connect_rate=connect_rate,
            **settings)
        self.pool_settings = PoolSettings(max_connections=connections)
        self.depth, self.seconds, self.trip = depth, seconds, trip
        self.allowed, self.word = allowed, word
        self.balance = 0
        self.trouble = ''
        self.others = ()
        self.chance = random.Random(f'{world.seed} {name}')
        self.addresses = Addresses(
            loop.time, relay=name, chance=self.chance.random,
            has_other_relay=lambda: any(each.is_up for each in self.others))
        self.lessons = Lessons(loop.time)
        self.memory = Memory(loop.time)
        self.throttle = Throttle(
            name, connections, loop.time, self.chance.random)
        self.pool = Pool(
            lambda: _Connection(self), self.pool_settings,
            slots=slots or EndlessSlots(), clock=loop.time,
            chance=self.chance.random, allowance=self.connects)
        self.is_down = self.is_silent = False
        self.live = set()
        self.most = 0
        self.accepted, self.arrivals, self.opened = [], [], []
        self.doubtful = set()
        # Called when somebody has connected.
        self.on_greeting = lambda: None

    def connects(self, wake):
        """Return the `Allowance` of connections of a pool, or None."""
        rates = self.settings.connect_rate
        return Allowance(
            (Limit(f'relay.{self.name}', Unit.connects, rates),),
            self.world.get_limiter, wake) if rates else None

    @property
    def is_up(self):
        return self.addresses.is_up

    @property
    def served(self):
        return [name for names, _ in self.accepted for name in names]

    def die(self):
        """End: connections break, and no new ones are to be had."""
        self.is_down = True
        self.drop()

    def drop(self):
        """Break all connections."""
        for connection in list(self.live):
            connection.lose()

    def hang(self):
        """Say nothing to who connects from now on; break the others."""
        self.is_silent = True
        self.drop()

    def come_back(self):
        """Be there again."""
        self.is_down = self.is_silent = False

    def greet(self, connection):
        """Let a connection in, or return what is said instead."""
        if self.allowed is not None and len(self.live) >= self.allowed:
            return '421 4.7.0 Too many connections'
        self.opened.append(self.world.loop.time())
        self.on_greeting()
        self.live.add(connection)
        self.most = max(self.most, len(self.live))
        return None


class _Connection:
    connects_lazily = False

    def __init__(self, server):
        self._server = server
        self._loop = server.world.loop
        self._use = None
        self._changed = asyncio.Event()
        self._is_woken = self._is_lost = False
        self.is_open = False
        self._session = server.world.next_session()
        self._arrived = 0.0

    async def open(self):
        server = self._server
        found = await server.addresses.resolve('127.0.0.1', 25, 30.0)
        use = server.addresses.begin(found[0])
        await asyncio.sleep(3 * server.trip)
        if server.is_silent:
            await asyncio.sleep(30.0)
        if server.is_down or server.is_silent:
            use.failed('Connection refused')
            raise RelayUnavailable(server.name, 'connect', 'refused')
        words = server.greet(self)
        if words is not None:
            use.refused(words)
            raise RelayUnavailable(server.name, 'greeting', words, 421)
        use.worked()
        self._use = use
        self.is_open = True

    def is_alive(self):
        return self.is_open and not self._is_lost

    async def disconnect(self):
        await asyncio.sleep(2 * self._server.trip)
        self._end()
        return not self._is_lost

    def _end(self):
        self._server.live.discard(self)
        self.is_open = False
        use, self._use = self._use, None
        if use is not None:
            use.end()

    def lose(self):
        self._server.live.discard(self)
        self._is_lost = True
        self._changed.set()

    def wake(self):
        self._is_woken = True
        self._changed.set()

    def abort(self):
        self.lose()

    async def converse(self, feed, report):
        try:
            await self._converse(feed, report)
        except BaseException:
            self._end()
            raise
        if self._is_lost:
            self._end()

    async def _converse(self, feed, report):
        """Send, and report the answers when they come, in their order."""
        flying, is_over, self._is_woken = deque(), False, True
        while flying or not is_over:
            now = self._loop.time()
            while flying and flying[0][2] <= now + NOTHING and (
                    not self._is_lost):
                self._report(flying.popleft(), report)
            if self._is_lost:
                for each in flying:
                    self._report(each, report, is_lost=True)
                if flying:
                    raise ConnectionLost('the server closed the connection')
                return
            while not is_over and self._is_woken and (
                    len(flying) < self._server.depth):
                given = feed(2 ** 40)
                if given is LATER:
                    # It will be woken.
                    self._is_woken = False
                else:
                    is_over = given is None
                    if not is_over:
                        flying.append(self._sent(given))
            if flying or not is_over:
                await self._wait(flying[0][2] if flying else None)

    async def _wait(self, until):
        self._changed.clear()
        if self._is_lost:
            return
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(
                self._changed.wait(),
                None if until is None else until - self._loop.time())

    def _sent(self, transaction):
        """Return a transaction, when it comes, and when the reply does."""
        server = self._server
        came = max(self._arrived, self._loop.time() +
                   server.chance.uniform(0, server.trip))
        self._arrived = came + server.seconds
        if not transaction.asks:
            server.arrivals.append((came, len(transaction.recipients)))
        return (transaction, came, self._arrived +
                server.chance.uniform(0, server.trip),
                server.world.next_tick())

    def _report(self, sent, report, is_lost=False):
        # Once it has answered it is to be asked again.
        self._is_woken = True
        transaction, came, _, begun = sent
        server = self._server
        span = Span(self._session, begun, server.world.next_tick())
        report(Outcome(transaction, tuple(
            self._lost(transaction, came) if is_lost else
            [self._result(transaction, name)
             for name in transaction.recipients]), span))

    def _lost(self, transaction, came):
        count = len(transaction.recipients)
        if transaction.asks:
            return [NOT_SENT] * count
        if came > self._loop.time():
            self._server.arrivals.remove((came, count))
            return [NOT_SENT] * count
        self._server.doubtful.update(transaction.recipients)
        return [IN_DOUBT] * count

    def _result(self, transaction, name):
        server = self._server
        words = server.word(server, name)
        if words is not None:
            return Result(Fate.refused, Stage.rcpt, reply(words))
        if transaction.asks:
            return Result(Fate.not_attempted, Stage.data, OK)
        server.accepted.append(((name,), self._loop.time()))
        return Result(Fate.accepted, Stage.end, OK)


@public
class World:
    """Relays, their servers, the limits, and the time that passes.

    :ivar storage: The `FileStorage` of the limits, which counts.
    """

    def __init__(self, seed=0, latency=0.0):
        """Begin.

        :param seed: What else chance depends on.
        :param latency: After how many seconds the storage of the limits
            answers; 0.0 if it does so at once.
        """
        self.seed = seed
        self._latency = latency
        self.loop = _Loop()
        # Python 3.9 looks for it when an event is made.
        asyncio.set_event_loop(self.loop)
        self.border = _Border(self.loop)
        self.servers = []
        self._directory = quick_directory()
        self.storage = self._storage()
        self.limiter = Limiter(self.storage, self.loop)
        self._sessions = self._ticks = 0
        # The tasks of the other processes.
        self.others = []

    def _storage(self):
        return _Counting(
            self._directory.name, self.loop.call_later, self._latency,
            clock=_Clock(self.loop), pause=lambda seconds: None)

    def get_limiter(self):
        return self.limiter

    def next_session(self):
        self._sessions += 1
        return self._sessions

    def next_tick(self):
        self._ticks += 1
        return self._ticks

    def add(self, name, **options):
        """Add a relay; return its `Server`."""
        server = Server(self, name, **options)
        self.servers.append(server)
        for each in self.servers:
            each.others = tuple(
                other for other in self.servers if other is not each)
        return server

    def slots(self, server_name, ceiling):
        """Return the slots of a process of this host."""
        return Slots(
            f'{self._directory.name}/slots-{server_name}', server_name,
            ceiling, clock=self.loop.time,
            chance=random.Random(self.next_tick()).random)

    def compete(self, server, ceiling, until, busy=7.0, idle=3.0):
        """Let another process use connections of a relay with a ceiling.

        :param until: For how many seconds.
        :param busy: How long it uses one at a time, in seconds.
        :param idle: How long it does without.
        """
        end = self.loop.time() + until
        pool = Pool(
            lambda: _Connection(server), server.pool_settings,
            slots=self.slots(server.name, ceiling), clock=self.loop.time,
            allowance=server.connects)

        def is_wanted():
            return self.loop.time() < end

        async def compete():
            while is_wanted():
                with suppress(RelayUnavailable):
                    found = await pool.acquire(is_wanted)
                    if found is not None:
                        connection, _ = found
                        await self._use(connection, pool, busy)
                await asyncio.sleep(idle)
            await pool.close()
        self.others.append(self.loop.create_task(compete()))
        self.at(until, pool.dismiss_unwanted)

    async def _use(self, connection, pool, seconds):
        """Use a connection for so long, or until others are to have it."""
        end = self.loop.time() + seconds
        while self.loop.time() < end and not pool.gives_back_busy():
            await asyncio.sleep(0.5)
        await connection.disconnect()
        pool.release(connection)

    def at(self, seconds, step, *args):
        """Have something happen so many seconds from now."""
        self.loop.call_later(seconds, step, *args)

    def run(self, seconds):
        """Let so many seconds pass."""
        self.loop.run_until_complete(asyncio.sleep(seconds))

    def limits(self, list_limits=()):
        """Return the `PostLimits` of a post to a list.

        :param list_limits: Further `Limit`s, of the list.
        """
        limits = {server: (*self.limits_of(server), *list_limits)
                  for server in self.servers}
        return PostLimits(
            {server: each for server, each in limits.items() if each},
            self.get_limiter)

    def limits_of(self, server):
        """Return the limits of a relay's messages and recipients."""
        settings = server.settings
        return tuple(
            Limit(f'relay.{server.name}', unit, rates) for unit, rates in (
                (Unit.messages, settings.message_rate),
                (Unit.recipients, settings.recipient_rate)) if rates)

    def close(self):
        """End everything; what went wrong in a callback is raised."""
        pending = []
        if not self.loop.has_hung:
            for server in self.servers:
                self.border.call(server.pool.close)
            for task in self.others:
                self.loop.run_until_complete(task)
            self.run(100.0)
            self.border.call(self.limiter.close)
            pending = list(asyncio.all_tasks(self.loop))
        with suppress(Hang):
            for task in asyncio.all_tasks(self.loop):
                task.cancel()
            self.run(0)
        asyncio.set_event_loop(None)
        self.loop.close()
        self._directory.cleanup()
        if self.loop.mistakes:
            raise AssertionError(self.loop.mistakes)
        if pending:
            raise AssertionError(f'still at work: {pending}')
        if +self.storage.flying and not self.loop.has_hung:
            raise AssertionError(f'still in flight: {self.storage.flying}')


class _Counting(FileStorage):
    """Counts what is in flight, and answers late if that is wanted.

    :ivar flying: By the key of the limit.
    """

    def __init__(self, directory, later, latency, **options):
        super().__init__(directory, later, **options)
        self._call_later = later
        self._latency = latency
        self.flying = Counter()

    def take(self, ask, answer):
        if self._latency:
            self._call_later(
                self._latency, lambda: answer(self.take_now(ask)))
        else:
            super().take(ask, answer)

    def take_now(self, ask):
        answer = super().take_now(ask)
        for limit in getattr(answer, 'limits', ()):
            self.flying[limit.key] += answer.amount(limit)
        return answer

    def _less(self, taken):
        for limit in taken.limits:
            self.flying[limit.key] -= taken.amount(limit)
            assert self.flying[limit.key] >= 0, self.flying

    def replied(self, taken):
        self._less(taken)
        super().replied(taken)

    def unused(self, taken):
        self._less(taken)
        super().unused(taken)


@public
class APost:
    """One post of a world, from its beginning to its end.

    :ivar ledger: Its `Ledger`.
    :ivar outbound: The main thread's end of its turn.
    :ivar seconds: How long the turn took.
    """

    def __init__(self, world, *, servers=None, list_limits=(), turn=None,
                 patience=3600.0, attempts=3, was_in_retry=False):
        self._world = world
        self.servers = list(world.servers if servers is None else servers)
        self.ledger = Ledger(
            relays=self.servers, catalogue=Catalogue(ANSWERS),
            post=Post(count=100000, plain_sender=PLAIN))
        options = {} if turn is None else {'turn': turn}
        self.outbound = Outbound(
            self.servers, DeliverySettings(
                attempts=attempts, patience=patience), self.ledger,
            plain_sender=PLAIN, was_in_retry=was_in_retry,
            limits=world.limits(list_limits),
            clock=world.loop.time, border=world.border, **options)

    def send(self, names, size=1, meets=False, gap=0.0):
        """Send to so many, and end the turn.

        :param meets: True to ask first whether the servers make the senders.
        :param gap: How long each transaction takes to be made, in seconds.
        :return: Those who still have to be served.
        """
        began = self._world.loop.time()
        self._world.border.deadline = began + LONGEST
        outbound = self.outbound
        if meets:
            outbound.makes_senders
        outbound.expect(-(-len(names) // size))
        with suppress(NothingMoreToSend):
            for start in range(0, len(names), size):
                if gap:
                    self._world.run(gap)
                outbound.submit(Transaction(
                    PLAIN, tuple(names[start:start + size]), CONTENT))
        outbound.finish()
        outbound.close()
        self.seconds = self._world.loop.time() - began
        return self.ledger.close(names, outbound.unavailable)


@public
def names_of(number, first=0):
    """Return the addresses of so many members."""
    return [f'member-{each:05}@d{each % 7}.example.com'
            for each in range(first, first + number)]


@public
def per(count, seconds=1.0):
    """Return the rates of a limit."""
    return (Rate(count, seconds),)


@public
def most_in(moments, seconds):
    """Return how much came within so many seconds at the most.

    :param moments: Pairs of a time and an amount.
    """
    window, total, most = deque(), 0, 0
    for when, amount in sorted(moments):
        while window and window[0][0] <= when - seconds:
            total -= window.popleft()[1]
        window.append((when, amount))
        total += amount
        most = max(most, total)
    return most
