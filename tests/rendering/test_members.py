# SPDX-License-Identifier: GPL-3.0-or-later

"""The batched look-ups say of everybody what Mailman says."""

import unittest

from mailman.config import config
from mailman.interfaces.database import IDatabaseFactory
from mailman.interfaces.usermanager import IUserManager
from mailman.testing.layers import ConfigLayer
from mailman.utilities.datetime import now
from mailman_mta_pool.rendering.members import look_up, MemberValues, Values
from mailman_mta_pool.rendering.roster import members_of
from sqlalchemy import event
from tests.once import once
from tests.rendering.counting import statements
from tests.rendering.population import NAMES, Population
from tests.servers.postgresql import available, PostgreSQL
from zope.component import getUtility


SECTION = """
[database]
class: mailman.database.postgresql.PostgreSQLDatabase
url: {}
"""


def stock(mlist, recipient):
    """What Mailman's roster, members and users say, one by one."""
    member = mlist.members.get_member(recipient)
    user = getUtility(IUserManager).get_user(recipient)
    return Values(
        recipient,
        None if member is None else MemberValues(
            member.display_name, member.address.display_name,
            member.address.email, member.address.original_email,
            member.preferred_language.description),
        None if user is None else user.display_name)


class TestMembersInSQLite(unittest.TestCase):
    layer = ConfigLayer
    names = NAMES

    def setUp(self):
        population = Population(self.names)
        self._mlist = population.mlist
        self._recipients = population.recipients + list(population.wild)
        config.db.commit()

    def look_up(self, recipients, members=True, languages=True, users=True):
        return look_up(self._mlist, recipients, members=members,
                       languages=languages, users=users)

    def test_as_stock(self):
        found = self.look_up(self._recipients)
        self.assertEqual(set(found), set(self._recipients))
        for recipient in self._recipients:
            with self.subTest(recipient=recipient):
                self.assertEqual(
                    found[recipient], stock(self._mlist, recipient))

    def test_the_members_themselves(self):
        # What stock's `get_member` returns, and nothing for all others.
        members = members_of(self._mlist, self._recipients)
        for recipient in self._recipients:
            with self.subTest(recipient=recipient):
                self.assertIs(
                    members.get(recipient),
                    self._mlist.members.get_member(recipient))
        self.assertEqual(members_of(self._mlist, ['nobody@example.com']), {})

    def test_the_members_bring_what_is_asked_of_them(self):
        self.assertEqual(self._mlist.preferred_language.code, 'en')
        config.db.store.expire_all()
        members = members_of(self._mlist, self._recipients).values()
        with statements() as seen:
            for member in members:
                str(member.display_name + member.address.original_email)
                member.preferred_language
        # The list itself is remembered elsewhere.
        self.assertEqual(
            [one for one in seen if 'FROM mailinglist' not in one], [])

    def test_somebody_leaves_while_members_are_read(self):
        recipient = self._recipients[0]
        identity = self._mlist.members.get_member(recipient).id
        config.db.store.expunge_all()

        def leave(connection, cursor, statement, *ignore):
            if 'FROM address JOIN member' in statement:
                connection.exec_driver_sql(
                    f'DELETE FROM member WHERE id = {identity}')
        event.listen(config.db.engine, 'after_cursor_execute', leave)
        try:
            found = members_of(self._mlist, self._recipients[:2])
        finally:
            event.remove(config.db.engine, 'after_cursor_execute', leave)
            config.db.abort()
        self.assertEqual(list(found), self._recipients[1:2])

    def test_population_is_odd_enough(self):
        found = self.look_up(self._recipients).values()
        members = [value.member for value in found if value.member]
        self.assertIn(None, [value.member for value in found])
        self.assertIn(None, [value.user_name for value in found])
        self.assertIn('', [member.name for member in members])
        self.assertGreater(len({member.language for member in members}), 3)
        self.assertTrue(any(
            member.email != member.original_email for member in members))
        self.assertTrue(any(
            member.name != member.address_name for member in members))

    def test_in_another_language(self):
        # Those who have chosen none get the list's.
        for code in ('fr', 'xk'):
            self._mlist.preferred_language = code
            found = self.look_up(self._recipients)
            for recipient in self._recipients:
                with self.subTest(code=code, recipient=recipient):
                    self.assertEqual(
                        found[recipient], stock(self._mlist, recipient))

    def test_only_what_is_asked_for(self):
        for members in (False, True):
            for languages in (False, True):
                for users in (False, True):
                    self.check(members, languages, users)

    def check(self, members, languages, users):
        found = self.look_up(self._recipients, members, languages, users)
        for recipient in self._recipients:
            expected = stock(self._mlist, recipient)
            if not users:
                expected = expected._replace(user_name=None)
            if not members:
                expected = expected._replace(member=None)
            elif expected.member is not None and not languages:
                expected = expected._replace(
                    member=expected.member._replace(language=None))
            with self.subTest(recipient=recipient, members=members,
                              languages=languages, users=users):
                self.assertEqual(found[recipient], expected)

    def test_other_lists_and_roles_do_not_count(self):
        found = self.look_up(['nonmember@example.com', 'owner@example.com',
                              'user@example.com'])
        for values in found.values():
            self.assertIsNone(values.member)

    def test_statements(self):
        # What is read of the list itself is read once for a post.
        self.assertEqual(self._mlist.preferred_language.code, 'en')
        found = self.look_up(self._recipients)
        members = [recipient for recipient, values in found.items()
                   if values.member is not None]
        for kind, recipients, count in (
                # One more for those who are none.
                ('members', self._recipients, 3), ('members', members, 2),
                ('users', self._recipients, 1)):
            wanted = dict(members=False, users=False, languages=False)
            wanted[kind] = True
            with self.subTest(kind=kind), statements() as seen:
                self.look_up(recipients, **wanted)
            self.assertEqual(len(seen), count, seen)

    def test_an_address_that_is_preferred_but_no_more_theirs(self):
        manager = getUtility(IUserManager)
        user = manager.create_user('was-mine@example.com', 'Anne')
        address, = user.addresses
        address.verified_on = now()
        user.preferred_address = address
        self._mlist.subscribe(user)
        user.unlink(address)
        config.db.commit()
        found = self.look_up([address.email], users=False, languages=False)
        member = self._mlist.members.get_member(address.email)
        self.assertIsNotNone(member)
        self.assertEqual(found[address.email].member.name, 'Anne')

    def test_nobody(self):
        self.assertEqual(self.look_up([]), {})


class TestGrowth(unittest.TestCase):
    layer = ConfigLayer

    def test_a_site_with_many_members(self):
        # SQLite begins with the addresses that are asked for, and not with
        # all members of the site.
        population = Population(NAMES)
        config.db.commit()
        plans = []

        def explain(connection, cursor, statement, parameters, *ignore):
            if statement.startswith('SELECT') and ' IN (' in statement:
                plans.append([row[-1] for row in connection.exec_driver_sql(
                    f'EXPLAIN QUERY PLAN {statement}', parameters)])
        member = population.recipients[0]
        event.listen(config.db.engine, 'after_cursor_execute', explain)
        try:
            look_up(population.mlist, [member], members=True, languages=True,
                    users=True)
        finally:
            event.remove(config.db.engine, 'after_cursor_execute', explain)
        self.assertEqual(len(plans), 3)
        for plan in plans:
            self.assertIn('ix_address_email', plan[0])
            for step in plan[1:]:
                self.assertRegex(step, r'PRIMARY KEY|ix_member_(user|address)')


class PostgreSQLLayer(ConfigLayer):
    """Mailman's database is in PostgreSQL for a while."""

    server = None

    @classmethod
    def setUp(cls):
        # The tests are skipped, the layer is not.
        if available():
            return
        cls.server = PostgreSQL()
        cls.server.__enter__()
        config.push('postgresql', SECTION.format(cls.server.url))
        cls.other = config.db
        try:
            config.db = getUtility(IDatabaseFactory, 'testing').create()
        except BaseException:
            cls.server.__exit__()
            raise

    @classmethod
    def testSetUp(cls):
        """Mailman's own is not called twice."""

    @classmethod
    def testTearDown(cls):
        """Mailman's own is not called twice."""

    @classmethod
    def tearDown(cls):
        if cls.server is None:
            return
        config.db.close_session()
        config.db.engine.dispose()
        config.db = cls.other
        config.pop('postgresql')
        cls.server.__exit__()
        cls.server = None


@unittest.skipIf(available(), available())
@once
class TestMembersInPostgreSQL(TestMembersInSQLite):
    layer = PostgreSQLLayer
    # PostgreSQL has no NUL in a text.  With SQLite all names are tried; these
    # are enough for each way to subscribe, in each language.
    names = tuple(name for name in NAMES if '\0' not in name)[:20]

    def test_it_is_postgresql(self):
        self.assertEqual(config.db.engine.dialect.name, 'postgresql')
