# SPDX-License-Identifier: GPL-3.0-or-later
"""A Mailman site in this process, and the posts that go out of it."""

import gc
import time

from contextlib import contextmanager
from itertools import count
from mailman.config import config
from mailman.core.initialize import initialize
from mailman.interfaces.listmanager import IListManager
from mailman.interfaces.mailinglist import Personalization
from mailman.mta import deliver as stock
from mailman_mta_pool import deliver as ours
from mailman_mta_pool.demo import population
from mailman_mta_pool.demo.compare import PLUGIN
from mailman_mta_pool.demo.site import ThrowawaySite
from mailman_mta_pool.strategies.order import in_order
from pathlib import Path
from public import public
from zope.component import getUtility


LIST = 'bench@example.com'
# What Mailman's pipeline does to the headers of a post on its way out.
HANDLERS = ('cook-headers', 'rfc-2369')
HEADERS = b"""\
From: Anne Person <anne@example.com>
To: bench@example.com
Subject: A post
Date: Mon, 05 Jan 2026 10:00:00 +0000
Message-ID: <bench@example.com>
MIME-Version: 1.0
Content-Type: text/plain; charset=us-ascii

"""
LINE = b'Ants carry many times their own weight, each a little, together.\n'
FOOTER = """\
_______________________________________________
$display_name mailing list -- $listname
Sent to $user_name, $user_address, as $member
"""
PERSONALIZATION = {
    'individual': Personalization.individual, 'full': Personalization.full,
    }
DELIVER = {'stock': stock.deliver, 'ours': ours.deliver}
# What holds for both unless a case says otherwise.
DEFAULTS = {'smtp_host': '127.0.0.1', 'max_recipients': '500'}


public(LIST=LIST)


@public
def content(size):
    """Make a post of about so many octets."""
    return HEADERS + LINE * max(1, (size - len(HEADERS)) // len(LINE))


@public
class Site:
    """One list, at the site that Mailman in this process is initialized for.

    :param directory: Where files can be put.
    :ivar members: Their addresses, in the order in which they are served.
    """

    def __init__(self, directory):
        self._directory = directory
        self._numbers = count()
        self._files = {}
        self._mlist = getUtility(IListManager).get(LIST)
        self.members = in_order(population.member_addresses(LIST))
        self._posts = {}

    @contextmanager
    def configured(self, port, connections, mta=(), settings=()):
        """Send to this server, for the time of the block.

        :param port: The server's.
        :param connections: How many.
        :param mta: Key and value of what else differs in [mta].
        :param settings: Section, key and value of what differs in our own
            configuration.
        """
        values = {**DEFAULTS, 'smtp_port': port,
                  'max_delivery_threads': connections, **dict(mta)}
        lines = [f'{key}: {value}' for key, value in values.items()]
        number = next(self._numbers)
        sections = {}
        for section, key, value in settings:
            sections.setdefault(f'[{section}]', []).append(f'{key}: {value}')
        own = self._own_configuration(''.join(
            '\n'.join([head, *keys, '']) for head, keys in sections.items()))
        config.push(str(number), '\n'.join([
            '[mta]', *lines, '[plugin.mta_pool]', f'configuration: {own}']))
        try:
            yield
        finally:
            config.pop(str(number))

    def _own_configuration(self, text):
        """The same file for the same text: it is read once, as at a site."""
        if text not in self._files:
            self._files[text] = Path(
                self._directory, f'pool-{len(self._files)}.cfg')
            self._files[text].write_text(text)
        return self._files[text]

    def personalize(self, mode):
        """Prepare the list for such posts."""
        self._mlist.personalize = PERSONALIZATION.get(
            mode, Personalization.none)
        footer = Path(config.TEMPLATE_DIR, 'site', 'en',
                      'list:member:regular:footer.txt')
        footer.parent.mkdir(parents=True, exist_ok=True)
        if mode in PERSONALIZATION:
            footer.write_text(FOOTER)
        elif footer.exists():
            footer.unlink()
        config.db.commit()

    def _post(self, size, mode, recipients):
        """The message and metadata as the outgoing runner gets them."""
        if size not in self._posts:
            msg, msgdata = population.as_queued(
                content(size), self._mlist.list_id)
            for name in HANDLERS:
                config.handlers[name].process(self._mlist, msg, msgdata)
            self._posts[size] = msg.as_bytes()
        return population.as_queued(
            self._posts[size], self._mlist.list_id, verp=mode == 'verp',
            version=3, recipients=recipients)

    def deliver(self, by, mode, size, recipients):
        """Deliver a post.

        :param by: 'stock' or 'ours'.
        :param mode: See `Case`.
        :param size: In octets.
        :param recipients: To how many members.
        :return: How long it took, in seconds.
        :raises SomeRecipientsFailed: if anybody was refused.
        """
        queue = config.switchboards['out']
        entry = queue.enqueue(*self._post(
            size, mode, set(self.members[:recipients])))
        # As the runner does, for a journal is kept of queue entries only.
        msg, msgdata = queue.dequeue(entry)
        # So it loads the list, too, in a transaction that is open then.
        mlist = getUtility(IListManager).get_by_list_id(msgdata['listid'])
        # Nobody pays for another's garbage.
        gc.collect()
        start = time.perf_counter()
        DELIVER[by](mlist, msg, msgdata)
        took = time.perf_counter() - start
        queue.finish(entry)
        config.db.commit()
        return took


@public
@contextmanager
def site(members):
    """A site with so many members, for the time of the block.

    There can be one in the life of a process.

    :rtype: `Site`
    """
    with ThrowawaySite(extra=PLUGIN) as throwaway:
        throwaway.create_list(LIST, members)
        initialize(str(throwaway.configuration))
        yield Site(throwaway.directory)
