# SPDX-License-Identifier: GPL-3.0-or-later
"""From a case to its figures."""

from benchmarks.measuring import Contender, in_turn
from benchmarks.wire import by_smtplib, Wire
from contextlib import ExitStack
from public import public
from tests.servers.sink import smtp_source


# Fewer than so many would measure the connecting.
LEAST = 25
# How long a measurement lasts, about, in seconds, if all recipients of the
# case would take longer.
SECONDS = 1.0


@public
class Figures:
    """What came of a case.

    :ivar case: The case.
    :ivar rival: What ours was compared with.
    :ivar ours: For each number of connections.
    :ivar source: The load generator, likewise.
    """

    def __init__(self, case, rival, ours, source):
        self.case = case
        self.rival = rival
        self.ours = ours
        self.source = source

    @property
    def ratio(self):
        """Ours, with the most connections, to the rival."""
        return self.ours[self.case.connections[-1]].rate / self.rival.rate

    @property
    def spread(self):
        """The least and the greatest of the ratios."""
        ours = self.ours[self.case.connections[-1]]
        ratios = [mine / other for mine, other in zip(
            ours.rates, self.rival.rates)]
        return min(ratios), max(ratios)


@public
class Runner:
    """Runs cases, one after the other.

    :param sinks: The servers.
    :type sinks: `Sinks`
    :param site: A site with members enough for every case.
    :param seconds: How long a measurement lasts, about.
    """

    def __init__(self, sinks, site, seconds=SECONDS):
        self._sinks = sinks
        self._site = site
        self._seconds = seconds
        self._sources = {}

    def run(self, case):
        """Measure all that the case compares.

        :rtype: `Figures`
        """
        port = self._sinks.port(case.sink, case.round_trip)
        with ExitStack() as stack:
            if case.mode == 'wire':
                make = self._messages
            else:
                make = self._posts
                self._site.personalize(case.mode)
            ours, rival = make(case, port, stack)
            source = {number: self._source(case, port, number)
                      for number in case.connections}
            if case.rival == 'smtp-source':
                rival = source[case.connections[-1]]
            contenders = [*ours.values(), *source.values(), rival]
            # What was measured in an earlier case, and the rival that is in
            # the list twice, are not measured again.
            in_turn([one for one in dict.fromkeys(contenders)
                     if not one.rates],
                    lambda: self._sinks.rest(case.sink))
        return Figures(case, rival, ours, source)

    def _posts(self, case, port, stack):
        def run(by, connections, settings):
            def deliver(recipients):
                with self._site.configured(
                        port, connections, case.mta, settings):
                    return sum(
                        self._site.deliver(
                            by, case.mode, case.size, part)
                        for part in _parts(recipients, case.recipients))
            return deliver
        ours = {
            number: self._ours(case, number, run(
                'ours', number, case.settings))
            for number in case.connections}
        last = case.connections[-1]
        if case.rival == 'ours':
            return ours, self._ours(case, last, run(
                'ours', last, case.others))
        # One that sends to many at once is soon done with them all.
        least = case.recipients if case.mode == 'bulk' else LEAST
        return ours, self._contender(
            case, 'stock', least, run('stock', last, ()))

    def _messages(self, case, port, stack):
        chunking = not case.settings
        ours = {
            number: self._ours(case, number, stack.enter_context(
                Wire(port, number, case.size, chunking)).run)
            for number in case.connections}
        return ours, self._contender(
            case, 'smtplib', LEAST,
            lambda number: by_smtplib(port, case.size, number))

    def _ours(self, case, connections, run):
        least = LEAST * connections
        if case.goal or case.mode == 'bulk':
            # What is asked for is a whole post.
            least = case.recipients * case.posts
        return self._contender(case, 'ours', least, run)

    def _contender(self, case, name, least, run):
        most = case.recipients * case.posts
        return Contender(name, run, min(least, most), most, self._seconds)

    def _source(self, case, port, connections):
        """The load generator; one for all cases that it cannot tell apart."""
        together = 1
        if case.mode == 'bulk':
            together = int(dict(case.mta).get('max_recipients', 500))
        key = port, case.size, together, connections
        if case.rival == 'smtp-source':
            # Only what is measured in turn is compared.
            key += (case,)
        if key not in self._sources:
            def run(recipients):
                return smtp_source(
                    port, max(1, recipients // together), connections,
                    together, case.size)
            least = max(LEAST, together) * connections
            self._sources[key] = Contender(
                'smtp-source', run, least, max(least, case.recipients),
                self._seconds)
        return self._sources[key]


def _parts(recipients, most):
    """Yield into how many recipients each a number of them is divided."""
    for start in range(0, recipients, most):
        yield min(most, recipients - start)
