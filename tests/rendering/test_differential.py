# SPDX-License-Identifier: GPL-3.0-or-later

"""Whatever the post, the list and the members: the bytes are Mailman's."""

import unittest
import mailman_mta_pool.rendering.renderer

from contextlib import ExitStack
from hypothesis import given, strategies as st
from mailman.config import config
from mailman.interfaces.mailinglist import Personalization
from mailman.testing.layers import ConfigLayer
from mailman_mta_pool.strategies.order import in_order
from sqlalchemy import text
from tests.examples import profile
from tests.rendering.both import by_ours, by_stock, warnings
from tests.rendering.population import LANGUAGES, NAMES, Population
from tests.rendering.posts import parsed, RAW
from tests.rendering.quick import remembered
from tests.rendering.signing import signing
from tests.rendering.templates import FOOTER, HEADER, Templates, TEMPLATES
from typing import Any, NamedTuple
from unittest import mock


PROFILE = profile(500)

# The most common ones, and the hardest.
CODES = st.sampled_from(
    ('en', 'en', 'en', 'fr', 'fr', 'de', 'de', 'ja') + tuple(LANGUAGES))
POPULATION = len(NAMES) + 19
PERSONAL_NAMES = st.one_of(
    st.sampled_from(NAMES),
    st.text(st.characters(exclude_categories=['Cs'], exclude_characters='\0'),
            max_size=12))


class Post(NamedTuple):
    """One example."""

    raw: bytes
    language: str
    description: str
    header: Any
    footer: Any
    names: Any
    recipients: Any
    flagged: Any
    verp: bool
    personalize: Personalization
    signs: bool
    checked: int
    coalesce: bool
    makes_senders: bool
    more: Any


POSTS = st.builds(
    Post, RAW, CODES,
    description=st.sampled_from(('', 'A list', 'Une liste é', 'Список')),
    header=st.one_of(st.just((None, '')), TEMPLATES), footer=TEMPLATES,
    names=st.tuples(PERSONAL_NAMES, PERSONAL_NAMES),
    # At least the two with the names above.
    recipients=st.sets(st.integers(0, POPULATION - 1), max_size=4),
    flagged=st.sampled_from(((), (), (0,), (0, 1, 2))),
    verp=st.booleans(),
    personalize=st.sampled_from(
        (Personalization.individual, Personalization.full,
         Personalization.full, Personalization.none)),
    signs=st.sampled_from((False,) * 5 + (True,)),
    # Without the comparison that the renderer makes for its own safety, all
    # that is compared here is spliced.
    checked=st.sampled_from((0, 0, 0, 2)),
    coalesce=st.booleans(), makes_senders=st.booleans(),
    more=st.sampled_from(
        ({},) * 24 + (
            {'nodecorate': True}, {'isdigest': True}, {'arc_signed': True},
            {'sender': 'other@example.com'}, {'sender': 'no-domain'},
            {'decoration-data': {'user_name': 'Everybody', 'x': 'y'}})))


class TestSameBytes(unittest.TestCase):
    layer = ConfigLayer

    def setUp(self):
        self._resources = ExitStack()
        self.addCleanup(self._resources.close)
        self._resources.enter_context(signing())
        self._templates = Templates()
        self._resources.callback(self._templates.close)
        self._population = Population()
        self._mlist = self._population.mlist
        self.assertEqual(len(self._population.recipients), POPULATION)
        self._resources.enter_context(remembered())
        # Nobody needs this database after a crash.
        config.db.store.execute(text('PRAGMA synchronous = OFF'))

    @PROFILE
    @given(POSTS)
    def test_recipients_get_what_stock_makes(self, post):
        msg = parsed(post.raw)
        self.set_up(post)
        recipients = self._choose(post)
        msgdata = dict(
            post.more, recipients=recipients, verp=post.verp,
            # Otherwise stock flattens the post once more, for the log.
            original_size=len(post.raw),
            **{'add-dup-header': {recipients[i] for i in post.flagged
                                  if i < len(recipients)}})
        with mock.patch.object(
                mailman_mta_pool.rendering.renderer, 'COMPARED_PER_KIND',
                post.checked):
            with warnings() as lines:
                ours = by_ours(self._mlist, msg, msgdata, post.coalesce,
                               post.makes_senders)
        self.assertEqual(lines, [])
        stock = by_stock(self._mlist, msg, msgdata, ours.boundary)
        if stock.error is None:
            self.assertIsNone(ours.error)
            self.assertEqual(stock.msgdata, ours.msgdata)
            self.check(ours, stock.rendered)
            self.assertEqual(len(ours.rendered), len(recipients))
        else:
            self.check_error(msg, msgdata, ours, stock)

    def test_nothing_stands_in_the_way(self):
        # An error that every post had would make all of them equal.
        msg = parsed(b'From: Anne <anne@example.com>\n'
                     b'Message-ID: <a@example.com>\n\nHello!\n')
        for personalize in Personalization:
            self._mlist.personalize = personalize
            stock = by_stock(self._mlist, msg, {
                'recipients': list(self._population.wild), 'verp': True})
            self.assertIsNone(stock.error)
            self.assertEqual(len(stock.rendered), 2)

    def set_up(self, post):
        mlist = self._mlist
        mlist.preferred_language = post.language
        mlist.description = post.description
        mlist.personalize = post.personalize
        self._templates.set(HEADER, mlist, *post.header)
        self._templates.set(FOOTER, mlist, *post.footer)
        self._population.name_the_wild(*post.names)
        config.db.commit()
        config.arc_enabled = post.signs

    def _choose(self, post):
        return list(self._population.wild) + [
            self._population.recipients[index]
            for index in sorted(post.recipients)]

    def check(self, ours, expected):
        for recipient, rendered in ours.rendered.items():
            self.assertEqual(rendered, expected[recipient], recipient)

    def check_error(self, msg, msgdata, ours, stock):
        """The first whom stock cannot render stops us, too."""
        if self._mlist.personalize is Personalization.none and (
                not msgdata['verp']):
            self.assert_same_error(ours.error, stock.error)
            return
        expected = {}
        for recipient in in_order(msgdata['recipients']):
            # Twice, because of what the decorate handler does for a single
            # recipient.
            alone = by_stock(self._mlist, msg, dict(
                msgdata, recipients=[recipient, recipient]), ours.boundary)
            if alone.error is not None:
                self.assert_same_error(ours.error, alone.error)
                break
            expected.update(alone.rendered)
        else:
            self.fail('nobody is to blame')
        self.check(ours, expected)

    def assert_same_error(self, ours, stock):
        self.assertEqual((type(ours), str(ours)), (type(stock), str(stock)))
