# SPDX-License-Identifier: GPL-3.0-or-later

"""Misbehaviour as data: what the server does, and what becomes of whom.

Each case is a post to members of its own, so that many cases share a server,
a site and a runner.  The accounts are done for each case, and for all of them
at the end.
"""

from collections import defaultdict
from itertools import repeat
from public import public
from tests.scripted import Scripted
from tests.site import POST
from tests.site_case import SiteTestCase
from typing import Any, Callable, Dict, NamedTuple


#: Settings with which each phase has a second.
HASTY = {f'{phase}_timeout': '1s' for phase in (
    'connect', 'greeting', 'hello', 'mail', 'rcpt', 'data', 'block', 'end',
    'quit')}
#: Settings with which every post meets the server anew.
ANEW = {'pool': {'idle_timeout': 0}, 'delivery': {'patience': '2s'}}
public(ANEW=ANEW, HASTY=HASTY)


@public
class Case(NamedTuple):
    """One kind of misbehaviour.

    :ivar script: Makes the server's script; see `Scripted`.
    :ivar verp: Is the post VERP'd?
    :ivar ends: The names of those who end so: 'served', 'bounced', or the
        name of a queue.
    :ivar content: The post.
    """

    script: Callable[[], Any]
    verp: bool
    ends: Dict[str, str]
    content: bytes = POST


@public
class Cases:
    """A collection of cases, in the order of their definition."""

    def __init__(self):
        self.cases = {}

    def __call__(self, *, verp=False, content=POST, **ends):
        """Decorate a function that makes a script; see `Case`."""
        def add(make):
            name = make.__name__.replace('_', '-')
            self.cases[name] = Case(make, verp, ends, content)
            return make
        return add

    def without(self, *names):
        """Return these cases but for some."""
        others = Cases()
        others.cases = {name: case for name, case in self.cases.items()
                        if name not in names}
        return others


@public
def addresses(case, names):
    """Make the addresses of a case.

    :param case: The case's name, which is a part of the domain.
    :param names: Names with spaces between them; one with an at sign is in
        another domain.
    :return: A list of addresses.
    """
    return [
        f'{name}.{case}.example.com' if '@' in name
        else f'{name}@{case}.example.com' for name in names.split()]


@public
def on(verb, *replies, who='', at=1):
    """A script that answers a command, or the end of the content, its way.

    :param verb: The command's verb; '.' is the end of the content, by BDAT,
        too.
    :param replies: What it says to the first such command, to the second,
        and so on.
    :param who: Only if it is for a recipient of that name.
    :param at: The first command counted is number 1; this one is the first
        that is answered in an unusual way.
    """
    return _on(verb, iter([None] * (at - 1) + list(replies)), who)


@public
def always(verb, reply, who=''):
    """A script that always answers a command so; see `on`."""
    return _on(verb, repeat(reply), who)


def _on(verb, replies, who):
    verbs = ('.', 'BDAT') if verb == '.' else (verb,)

    def script(command, session):
        if command.partition(' ')[0] not in verbs:
            return None
        names = (command if verb in ('MAIL', 'RCPT')
                 else ' '.join(session.recipients))
        return next(replies, None) if who in names else None
    return script


@public
def several(*scripts):
    """A script that says what the first of these says that says anything."""
    def script(command, session):
        answers = (script(command, session) for script in scripts)
        return next((each for each in answers if each is not None), None)
    return script


@public
def ends(site, served):
    """Tell how everybody ended.

    :param site: The site.
    :param served: The recipients, as often as the server accepted them.
    :return: A dictionary of addresses and sorted lists: 'served', once for
        each copy; 'bounced', once for each bounce; and the names of queues.
    """
    found = defaultdict(list)
    for recipient in served:
        found[recipient].append('served')
    for recipient in site.bounced():
        found[recipient].append('bounced')
    for queue, recipients in site.waiting().items():
        for recipient in recipients:
            found[recipient].append(queue)
    return {recipient: sorted(each) for recipient, each in found.items()}


@public
class CaseTestCase(SiteTestCase):
    """A test case that plays cases."""

    def play(self, cases, *, one_by_one=False, settings=None,
             extensions=('PIPELINING',), tls=None, **options):
        """Play them all, one after the other, with one runner.

        :param cases: The `Cases`.
        :param one_by_one: Queue a post only when the last one is done.  The
            script of its case is asked about whatever happens in between;
            otherwise it is asked about transactions only, which are told
            apart by their senders.
        :param settings: The plugin's settings.
        :param extensions: What the server offers.
        :param tls: Its context for STARTTLS.
        :param options: Further ones for the site.
        :return: The site and the server.
        """
        scripts = {name: case.script() for name, case in cases.cases.items()}
        current = []

        def script(command, session):
            name = current[-1] if one_by_one else _case_of(command, session)
            if name is not None:
                return scripts[name](command, session)
        server = self.use(Scripted(script, extensions=extensions, tls=tls))
        wanted = {name: _expected(name, case)
                  for name, case in cases.cases.items()}
        site = self.site(server, settings=settings, members=[
            (address, '') for each in wanted.values() for address in each
            # Mailman takes no others for members.
            if address.isascii()], **options)
        with site.runner():
            for name, case in cases.cases.items():
                current.append(name)
                site.post(case.content, verp=case.verp, recipients=set(
                    wanted[name]), sender=f'{name}@example.com')
                if one_by_one:
                    site.wait_until_empty()
                    self.assertEnds(name, site, server, wanted[name])
            site.wait_until_empty(timeout=120)
        for name, each in wanted.items():
            self.assertEnds(name, site, server, each)
        self.assertEqual(
            sorted(ends(site, server.served)),
            sorted(address for each in wanted.values() for address in each))
        self.assertQuiet(site)
        return site, server

    def assertEnds(self, name, site, server, expected):
        """Those of a case ended as they should."""
        with self.subTest(name):
            found = ends(site, server.served)
            self.assertEqual(
                {address: found.get(address, 'lost') for address in expected},
                expected)


def _case_of(command, session):
    sender = session.sender
    if command.startswith('MAIL'):
        sender = command.partition('<')[2].partition('>')[0]
    return sender and sender.partition('@')[0].partition('+')[0]


def _expected(name, case):
    return {address: [end] for end, names in case.ends.items()
            for address in addresses(name, names)}
