# SPDX-License-Identifier: GPL-3.0-or-later

"""Which relays and limits are for a list."""

import unittest

from fnmatch import fnmatchcase
from hypothesis import given, strategies as st
from mailman_mta_pool.configuration.lists import parse_lists
from mailman_mta_pool.relays.routing import (
    limits_for,
    matches,
    relays_for,
    routing_warnings,
)
from mailman_mta_pool.settings import LimitSettings, RelaySettings, Settings


NAMES = st.text('ab.-+*', min_size=1, max_size=6)
LABELS = st.lists(
    st.text('ab-*', min_size=1, max_size=4), min_size=1, max_size=3)


@st.composite
def patterns(draw):
    """A pattern of posting addresses."""
    return f'{draw(NAMES)}@{".".join(draw(LABELS))}'


def settings_with(*lists):
    """Settings with a relay, named by a number, for each of some lists."""
    return Settings(relays=tuple(
        RelaySettings(name=str(number), lists=parse_lists(text))
        for number, text in enumerate(lists)))


class TestLists(unittest.TestCase):
    def test_parse(self):
        self.assertEqual(parse_lists(''), ())
        self.assertEqual(parse_lists(' , '), ())
        self.assertEqual(
            parse_lists('*@Lists.Example.org,\n ANT@example.com,'
                        ' ant@example.com'),
            ('*@lists.example.org', 'ant@example.com'))

    def test_mistakes(self):
        for pattern in ('*', 'ant', 'ant.example.com', '@example.com', 'ant@',
                        'a@b@c', '*@lists..example.org', '*@.example.org',
                        '*@example.org.', 'ant bee@example.com',
                        'ant@exam ple.com', '<ant@example.com>',
                        '*@example.org;', 'ant@example.com/x', '[a]@b', '?@b'):
            with self.subTest(pattern=pattern):
                with self.assertRaises(ValueError) as caught:
                    parse_lists(f'bee@example.com, {pattern}')
                self.assertEqual(str(caught.exception), pattern)

    @given(patterns())
    def test_every_pattern_is_its_own_match(self, pattern):
        self.assertTrue(matches(
            parse_lists(pattern), pattern.replace('*', 'x')))

    @given(patterns(), patterns())
    def test_as_fnmatch(self, pattern, other):
        address = other.replace('*', 'x')
        # For once a `*` must not reach over the @.
        expected = all(map(
            fnmatchcase, address.split('@'), pattern.split('@')))
        self.assertEqual(matches(parse_lists(pattern), address), expected)

    def test_capitals(self):
        # Mailman has the names of lists in lower case, whatever was said.
        self.assertTrue(
            matches(parse_lists('Ant@Example.COM'), 'ant@example.com'))
        self.assertTrue(
            matches(parse_lists('ant@example.com'), 'Ant@EXAMPLE.com'))

    def test_whole_addresses(self):
        for address in ('ant@example.com.org', 'xant@example.com',
                        'ant@example-com', 'ant@example.com\n', None):
            with self.subTest(address=address):
                self.assertFalse(
                    matches(parse_lists('ant@example.com'), address))

    def test_many_stars_take_no_time(self):
        self.assertFalse(matches(
            parse_lists('*a' * 60 + '@*'), 'a' * 5000 + 'b@a'))


class TestRelays(unittest.TestCase):
    def names(self, settings, address):
        return [relay.name for relay in relays_for(settings, address)]

    def test_one_for_all(self):
        for address in (None, 'ant@example.com'):
            self.assertEqual(self.names(settings_with(''), address), ['0'])
            self.assertEqual(self.names(Settings(), address), ['mta'])

    def test_own_relays_and_no_other(self):
        settings = settings_with(
            '', 'ant@example.com', '*@example.com', '*@example.org', '')
        for address, names in (
                ('ant@example.com', ['1', '2']),
                ('bee@example.com', ['2']),
                ('ant@example.org', ['3']),
                ('ant@example.net', ['0', '4']),
                (None, ['0', '4'])):
            with self.subTest(address=address):
                self.assertEqual(self.names(settings, address), names)

    def test_none(self):
        settings = settings_with('ant@example.com')
        self.assertEqual(self.names(settings, 'bee@example.com'), [])
        self.assertEqual(self.names(settings, None), [])

    @given(st.lists(st.sampled_from(
        ['', '*@example.com', 'ant@example.com', '*@*']), min_size=1),
        st.sampled_from([None, 'ant@example.com', 'bee@example.com',
                         'ant@example.org']))
    def test_never_both_kinds(self, lists, address):
        settings = settings_with(*lists)
        found = relays_for(settings, address)
        own = [relay for relay in settings.relays
               if matches(relay.lists, address)]
        self.assertEqual(
            [bool(relay.lists) for relay in found], [bool(own)] * len(found))
        for relay in found:
            self.assertTrue(not relay.lists or matches(relay.lists, address))
        for relay in own:
            self.assertIn(relay, found)

    def test_limits(self):
        settings = Settings(limits=(
            LimitSettings('a', ('*@*',)),
            LimitSettings('b', ('ant@example.com',)),
            LimitSettings('c', ('*@example.org',))))
        for address, names in (
                ('ant@example.com', 'ab'), ('bee@example.org', 'ac'),
                (None, '')):
            with self.subTest(address=address):
                self.assertEqual(''.join(
                    limit.name for limit in limits_for(settings, address)),
                    names)


class TestWarnings(unittest.TestCase):
    def test_nothing_to_warn_of(self):
        def unasked():
            self.fail('the lists do not matter')
            yield
        self.assertEqual(
            routing_warnings(settings_with('ant@example.com', ''), unasked()),
            [])

    def test_mail_without_a_list(self):
        line, = routing_warnings(
            settings_with('*@example.com'), ['ant@example.com'])
        self.assertIn('mail without a list', line)
        self.assertIn('without `for`', line)

    def test_lists(self):
        lists = [f'list{number}@example.org' for number in range(7)]
        _, line = routing_warnings(
            settings_with('*@example.com'), ['ant@example.com', *lists])
        self.assertIn('list4@example.org and 2 more', line)
        self.assertNotIn('ant@', line)
        self.assertNotIn('list5', line)
