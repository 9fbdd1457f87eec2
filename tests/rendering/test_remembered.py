# SPDX-License-Identifier: GPL-3.0-or-later

"""What is remembered while a post is rendered."""

import unittest

from mailman.app.lifecycle import create_list
from mailman.config import config
from mailman.interfaces.mailinglist import Personalization
from mailman.model.domain import Domain
from mailman.model.mailinglist import ListArchiver
from mailman.model.template import Template
from mailman.testing.layers import ConfigLayer
from sqlalchemy.exc import MultipleResultsFound
from tests.rendering.both import by_ours, by_stock, errors
from tests.rendering.posts import parsed
from tests.rendering.templates import FOOTER


class TestAsStock(unittest.TestCase):
    layer = ConfigLayer

    def setUp(self):
        config.arc_enabled = False
        self.mlist = create_list('ant@example.com')
        self.mlist.personalize = Personalization.individual
        self.post = parsed(b'From: Anne <anne@example.com>\n\nHello!\n')

    def msgdata(self):
        return {'recipients': [f'm{number}@example.com'
                               for number in range(3)]}

    def test_an_archiver_that_has_gone(self):
        # From the configuration, and not from the list.
        config.db.store.add(ListArchiver(
            self.mlist, 'gone', next(config.archivers)))
        config.db.commit()
        msgdata = self.msgdata()
        ours, stock = errors(self.mlist, self.post, msgdata)
        self.assertIsInstance(stock, AssertionError)
        self.assertEqual(str(ours), str(stock))

    def test_an_archiver_that_is_new(self):
        # In the configuration, and not yet at the list.
        archivers = config.db.store.query(ListArchiver).filter(
            ListArchiver.mailing_list == self.mlist)
        msgdata = self.msgdata()
        by_stock(self.mlist, self.post, msgdata)
        known = {archiver.name for archiver in archivers}
        for deliver in (by_stock, by_ours):
            config.db.store.delete(archivers.filter(
                ListArchiver.name == 'prototype').one())
            config.db.commit()
            self.assertLess({archiver.name for archiver in archivers}, known)
            deliver(self.mlist, self.post, msgdata)
            self.assertEqual({archiver.name for archiver in archivers}, known)

    def test_no_domain(self):
        # Mailman takes none away that has lists.
        config.db.store.query(Domain).delete()
        config.db.commit()
        ours, stock = errors(self.mlist, self.post, self.msgdata())
        self.assertIsInstance(stock, KeyError)
        self.assertEqual(str(ours), str(stock))

    def test_two_templates_for_one_place(self):
        # Which there cannot be by Mailman's means.
        for _ in range(2):
            config.db.store.add(Template(
                FOOTER, self.mlist.list_id, 'mailman:///', None, None))
        config.db.commit()
        msgdata = self.msgdata()
        ours, stock = errors(self.mlist, self.post, msgdata)
        self.assertIsInstance(stock, MultipleResultsFound)
        self.assertEqual(str(ours), str(stock))
