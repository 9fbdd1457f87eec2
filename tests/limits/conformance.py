# SPDX-License-Identifier: GPL-3.0-or-later
"""What every storage of limits does, whatever it is made of."""

from hypothesis import HealthCheck, settings, strategies as st
from hypothesis.stateful import (
    initialize,
    invariant,
    precondition,
    rule,
    RuleBasedStateMachine,
)
from mailman_mta_pool.interfaces import ILimitStorage
from mailman_mta_pool.limits.limit import Ask, Limit, Refused, Taken, Unit
from mailman_mta_pool.settings import Rate
from public import public
from zope.interface.verify import verifyObject


@public
def limit(*rates, name='relay.ant', unit='messages'):
    """Return a limit of rates, each given as count and period."""
    return Limit(name, Unit[unit], tuple(Rate(*rate) for rate in rates))


@public
class Conformance:
    """Tests of a storage.

    The case has these methods, besides:

    * `new_process` returns a storage, as another process has it;
    * `die(storage)` ends it, as if its process had been killed;
    * `take(storage, ask)` returns the answer;
    * `settle()` waits until everything that was called has been done;
    * `wait(seconds)` sets the clock forward.
    """

    def take_all(self, storage, wanted, **kws):
        """Take one after the other until there is a refusal."""
        found = []
        while True:
            answer = self.take(storage, Ask(wanted, **kws))
            if isinstance(answer, Refused):
                return found, answer
            found.append(answer)

    def reply(self, storage, *taken):
        for each in taken:
            storage.replied(each)
        self.settle()

    def test_interface(self):
        self.assertTrue(verifyObject(ILimitStorage, self.new_process()))

    def test_until_one_period_after_the_reply(self):
        storage = self.new_process()
        wanted = (limit((3, 1)),)
        taken, refused = self.take_all(storage, wanted)
        self.assertEqual(len(taken), 3)
        self.assertEqual(refused.lacking, {'relay.ant.messages'})
        self.assertAlmostEqual(refused.seconds, 1.0, delta=0.01)
        # It does not help that time passes while nobody replies.
        self.wait(5)
        self.assertEqual(self.take_all(storage, wanted)[0], [])
        self.reply(storage, taken[0])
        self.wait(0.5)
        self.reply(storage, taken[1])
        self.wait(0.499)
        taken, refused = self.take_all(storage, wanted)
        self.assertEqual(taken, [])
        self.assertLess(refused.seconds, 0.01)
        self.wait(0.01)
        taken, refused = self.take_all(storage, wanted)
        self.assertEqual(len(taken), 1)
        self.assertAlmostEqual(refused.seconds, 0.5, delta=0.02)

    def test_unused(self):
        storage = self.new_process()
        wanted = (limit((1, 60)),)
        (taken,), _ = self.take_all(storage, wanted)
        storage.unused(taken)
        self.settle()
        self.assertEqual(len(self.take_all(storage, wanted)[0]), 1)

    def test_several_rates(self):
        storage = self.new_process()
        wanted = (limit((2, 1), (3, 60)),)
        taken, _ = self.take_all(storage, wanted)
        self.assertEqual(len(taken), 2)
        self.reply(storage, *taken)
        self.wait(1.01)
        taken, refused = self.take_all(storage, wanted)
        self.assertEqual(len(taken), 1)
        self.assertAlmostEqual(refused.seconds, 59, delta=0.5)

    def test_all_or_none(self):
        storage = self.new_process()
        large, small = limit((5, 60)), limit((1, 60), name='limit.bee')
        self.assertEqual(len(self.take_all(storage, (large, small))[0]), 1)
        # The refusals have taken nothing of the other.
        self.assertEqual(len(self.take_all(storage, (large,))[0]), 4)

    def test_limits_are_apart(self):
        storage = self.new_process()
        for each in (limit((1, 60)), limit((1, 60), name='relay.bee'),
                     limit((1, 60), unit='recipients'),
                     limit((1, 60), unit='connects')):
            self.assertEqual(len(self.take_all(storage, (each,))[0]), 1)

    def test_a_transaction_is_cut(self):
        storage = self.new_process()
        wanted = (limit((99, 60)), limit((25, 60), unit='recipients'))
        found = [self.take(storage, Ask(wanted, 10)) for _ in range(4)]
        self.assertEqual(
            [each.recipients for each in found[:3]], [10, 10, 5])
        self.assertEqual(found[3].lacking, {'relay.ant.recipients'})

    def test_a_part_of_the_recipients_is_given_back(self):
        storage = self.new_process()
        wanted = (limit((10, 60), unit='recipients'),)
        self.take(storage, Ask(wanted, 10))
        storage.unused(Taken(wanted, 4))
        self.settle()
        self.assertEqual(self.take(storage, Ask(wanted, 10)).recipients, 4)

    def test_what_cannot_be_cut_waits_until_it_fits(self):
        storage = self.new_process()
        wanted = (limit((10, 1), unit='recipients'),)
        first = self.take(storage, Ask(wanted, 5))
        refused = self.take(storage, Ask(wanted, 6, False))
        self.assertIsInstance(refused, Refused)
        self.reply(storage, first)
        self.wait(1.01)
        self.assertEqual(
            self.take(storage, Ask(wanted, 6, False)).recipients, 6)

    def test_debt(self):
        # More than the whole limit goes when nothing else counts, and is
        # paid for.
        storage = self.new_process()
        wanted = (limit((10, 1), unit='recipients'),)
        taken = self.take(storage, Ask(wanted, 25, False))
        self.assertEqual(taken.recipients, 25)
        self.reply(storage, taken)
        self.wait(1.02)
        self.assertIsInstance(self.take(storage, Ask(wanted, 1)), Refused)
        self.wait(1.02)
        self.assertEqual(self.take(storage, Ask(wanted, 25)).recipients, 5)

    def test_processes_share_a_limit(self):
        storages = [self.new_process() for _ in range(3)]
        wanted = (limit((7, 60)),)
        count = 0
        for index in range(30):
            answer = self.take(storages[index % 3], Ask(wanted))
            count += isinstance(answer, Taken)
        self.assertEqual(count, 7)

    def test_death(self):
        # What was in flight counts as if it was replied to when somebody
        # notices, and so does not block for ever.
        dead, living = self.new_process(), self.new_process()
        wanted = (limit((3, 10)),)
        taken, _ = self.take_all(dead, wanted)
        self.assertEqual(len(taken), 3)
        self.die(dead)
        self.wait(self.notice_s)
        self.assertEqual(self.take_all(living, wanted)[0], [])
        self.wait(9.9)
        self.assertEqual(self.take_all(living, wanted)[0], [])
        self.wait(0.2)
        self.assertEqual(len(self.take_all(living, wanted)[0]), 3)

    def test_restart(self):
        storage = self.new_process()
        wanted = (limit((3, 10), (4, 86400)),)
        taken, _ = self.take_all(storage, wanted)
        self.reply(storage, *taken[:2])
        self.die(storage)
        self.wait(self.notice_s)
        storage = self.new_process()
        count = len(self.take_all(storage, wanted)[0])
        self.wait(10.1)
        count += len(self.take_all(storage, wanted)[0])
        self.assertEqual(count, 1)

    def test_a_changed_rate(self):
        storage = self.new_process()
        wanted = (limit((5, 60)),)
        taken, _ = self.take_all(storage, wanted)
        self.reply(storage, *taken)
        # More is allowed, and there are other periods.
        self.assertEqual(
            len(self.take_all(storage, (limit((7, 60)),))[0]), 2)
        self.assertEqual(
            len(self.take_all(storage, (limit((6, 30)),))[0]), 0)
        self.assertEqual(
            len(self.take_all(storage, (limit((8, 3600)),))[0]), 1)
        self.assertEqual(self.take_all(storage, wanted)[0], [])

    def test_many_changed_rates(self):
        storage = self.new_process()
        for period in range(10, 40):
            answer = self.take(storage, Ask((limit((100, period)),)))
            self.reply(storage, answer)
        self.assertEqual(
            len(self.take_all(storage, (limit((50, 39)),))[0]), 20)

    def test_order(self):
        # Who was refused first is served first, and nobody else in between.
        first, second, third = (self.new_process() for _ in range(3))
        wanted = (limit((1, 1)),)
        taken = self.take(first, Ask(wanted))
        waits = []
        for storage in (first, second):
            waits.append(self.take(storage, Ask(wanted)))
            self.wait(0.001)
        self.reply(first, taken)
        self.wait(1.01)
        self.assertIsInstance(self.take(third, Ask(wanted)), Refused)
        self.assertIsInstance(self.take(second, Ask(
            wanted, ticket=waits[1].ticket)), Refused)
        self.assertIsInstance(self.take(first, Ask(
            wanted, ticket=waits[0].ticket)), Taken)

    def test_who_leaves_the_line_keeps_nobody_waiting(self):
        first, second = self.new_process(), self.new_process()
        wanted = (limit((1, 1)),)
        taken = self.take(first, Ask(wanted))
        refused = self.take(first, Ask(wanted))
        self.reply(first, taken)
        self.wait(1.01)
        self.assertIsInstance(self.take(second, Ask(wanted)), Refused)
        first.leave(Ask(wanted, ticket=refused.ticket))
        self.settle()
        self.assertIsInstance(self.take(second, Ask(wanted)), Taken)

    def test_who_does_not_come_keeps_nobody_waiting(self):
        first, second = self.new_process(), self.new_process()
        wanted = (limit((1, 1)),)
        taken = self.take(first, Ask(wanted))
        self.take(first, Ask(wanted))
        self.reply(first, taken)
        self.wait(1.01)
        self.assertIsInstance(self.take(second, Ask(wanted)), Refused)
        self.wait(1)
        self.assertIsInstance(self.take(second, Ask(wanted)), Taken)

    def test_who_waits_for_another_limit_keeps_nobody_waiting(self):
        # It could not go before that one lets it, in an hour.
        first, second = self.new_process(), self.new_process()
        short, long = limit((1, 1)), limit((1, 3600), name='relay.bee')
        for each in short, long:
            self.reply(first, self.take(first, Ask((each,))))
        refused = self.take(first, Ask((short, long)))
        self.assertEqual(refused.lacking, {'relay.bee.messages'})
        self.assertAlmostEqual(refused.seconds, 3600, delta=10)
        for _ in range(3):
            self.wait(1.01)
            taken = self.take(second, Ask((short,)))
            self.assertIsInstance(taken, Taken)
            self.reply(second, taken)
        # Of limits that take about as long it waits for both.
        other = limit((1, 1), name='limit.news')
        self.wait(1.01)
        self.reply(first, self.take(first, Ask((other,))),
                   self.take(first, Ask((short,))))
        refused = self.take(first, Ask((short, other)))
        self.assertEqual(len(refused.lacking), 2)
        self.wait(1.01)
        self.assertIsInstance(self.take(second, Ask((short,))), Refused)

    def test_two_limits_in_two_orders(self):
        # Each waits for what the other is first for, and neither for ever.
        first, second = self.new_process(), self.new_process()
        one, two = limit((1, 1)), limit((1, 1), name='relay.bee')
        for taken in [self.take(first, Ask((each,))) for each in (one, two)]:
            self.reply(first, taken)
        waits = {first: Ask((one, two)), second: Ask((two, one))}
        served = set()
        for _ in range(20):
            for storage, ask in waits.items():
                if storage in served:
                    continue
                answer = self.take(storage, ask)
                if isinstance(answer, Taken):
                    served.add(storage)
                    self.reply(storage, answer)
                else:
                    waits[storage] = Ask(ask.limits, ticket=answer.ticket)
            self.wait(0.2)
        self.assertEqual(served, {first, second})

    def test_model(self):
        """However they are used, no window ever has more than the limit."""
        case = self

        class Machine(StorageMachine):
            pass
        Machine.case = case
        test = Machine.TestCase()
        test.settings = settings(
            max_examples=self.examples, stateful_step_count=40,
            deadline=None, database=None,
            suppress_health_check=list(HealthCheck))
        test.runTest()


class StorageMachine(RuleBasedStateMachine):
    """Several processes, two limits, and the truth about their windows."""

    case = None
    rates = ((3, 1.0), (8, 10.0))

    @initialize()
    def begin(self):
        self.case.begin_example()
        self.storages = [self.case.new_process() for _ in range(2)]
        self.limits = (
            limit(*self.rates), limit((20, 5.0), unit='recipients'))
        # Per message: recipients, and when it was replied to.
        self.in_flight = []
        self.replied = []
        self.now = 0.0

    @rule(index=st.integers(0, 1), recipients=st.integers(1, 9),
          is_divisible=st.booleans())
    def take(self, index, recipients, is_divisible):
        storage = self.storages[index]
        # Two that ask in the same microsecond go in an order of their own.
        self.wait(0.000001)
        answer = self.case.take(
            storage, Ask(self.limits, recipients, is_divisible))
        if isinstance(answer, Taken):
            self.in_flight.append((storage, answer))
        else:
            assert answer.seconds > 0

    @precondition(lambda self: self.in_flight)
    @rule(data=st.data(), is_used=st.booleans())
    def reply(self, data, is_used):
        storage, taken = self.in_flight.pop(
            data.draw(st.integers(0, len(self.in_flight) - 1)))
        if is_used:
            storage.replied(taken)
            self.replied.append((self.now, taken.recipients))
        else:
            storage.unused(taken)
        self.case.settle()

    @rule(seconds=st.sampled_from([0.001, 0.3, 0.999, 1.0, 1.003, 4.0, 11.0]))
    def pass_time(self, seconds):
        self.wait(seconds)

    def wait(self, seconds):
        self.case.wait(seconds)
        self.now += seconds

    @rule(index=st.integers(0, 1))
    def die(self, index):
        storage = self.storages[index]
        self.case.die(storage)
        self.replied += [(self.now, taken.recipients)
                         for other, taken in self.in_flight
                         if other is storage]
        self.in_flight = [(other, taken) for other, taken in self.in_flight
                          if other is not storage]
        self.storages[index] = self.case.new_process()

    @invariant()
    def is_within_limits(self):
        if not hasattr(self, 'limits'):
            return
        for count, period in self.rates:
            past = sum(self.now - then < period for then, _ in self.replied)
            assert past + len(self.in_flight) <= count, (count, period)
        past = sum(n for then, n in self.replied if self.now - then < 5.0)
        past += sum(taken.recipients for _, taken in self.in_flight)
        assert past <= 20

    def teardown(self):
        self.case.end_example()
