# SPDX-License-Identifier: GPL-3.0-or-later

"""Rates as an administrator writes them."""

import unittest

from hypothesis import given, strategies as st
from mailman_mta_pool.configuration.rates import parse_rates
from mailman_mta_pool.settings import Rate


#: The seconds of a unit, and all the ways to write it.
UNITS = {
    1: ('s', 'sec', 'secs', 'second', 'seconds'),
    60: ('m', 'min', 'mins', 'minute', 'minutes'),
    3600: ('h', 'hour', 'hours'),
    86400: ('d', 'day', 'days'),
    604800: ('w', 'week', 'weeks'),
    }
BLANKS = st.text(' \t\n', max_size=2)


@st.composite
def rates_as_text(draw):
    """A text, and the rates that it means."""
    parts, rates = [], []
    units = draw(st.lists(
        st.sampled_from(sorted(UNITS)), unique=True, max_size=4))
    for seconds in units:
        count = draw(st.integers(1, 10 ** 9))
        # No two of them have a period in common.
        number = draw(st.sampled_from([None, 1, 11, 13]))
        unit = draw(st.sampled_from(UNITS[seconds]))
        words = [str(count), '/', '' if number is None else str(number), unit]
        text = draw(BLANKS).join(words)
        parts.append(draw(st.sampled_from([text, text.upper()])))
        rates.append(Rate(count, float((number or 1) * seconds)))
    end = draw(st.sampled_from(['', ';', ' ; '])) if parts else ''
    return draw(st.sampled_from([';', '; ', ' ;\n'])).join(parts) + end, rates


class TestRates(unittest.TestCase):
    def test_examples(self):
        for text, rates in (
                ('', ()),
                ('14/second', (Rate(14, 1.0),)),
                ('14/s', (Rate(14, 1.0),)),
                ('14/second; 50000/day', (
                    Rate(14, 1.0), Rate(50000, 86400.0))),
                ('100/10 minutes', (Rate(100, 600.0),)),
                ('100/10minutes', (Rate(100, 600.0),)),
                ('3 / Week;', (Rate(3, 604800.0),))):
            with self.subTest(text=text):
                self.assertEqual(parse_rates(text), rates)

    @given(rates_as_text())
    def test_every_way_to_write_them(self, drawn):
        text, rates = drawn
        self.assertEqual(parse_rates(text), tuple(rates))

    def test_mistakes(self):
        for text in (
                '14', '14/', '/second', '14/fortnight', '14/month', 'x/day',
                '0/second', '-1/second', '1.5/second', '14 per second',
                '14/0 seconds', '14/-1 second', '14/second, 5/day',
                '14/second;;5/day', ';', '50,000/day', '1_000/day', '14/ss',
                '14/secondss', '1e3/day', '\u0661/day', '14/\u0661 day',
                # The same period, in two ways.
                '14/second; 15/s', '100/minute; 90/60 s',
                # Nobody sells that.
                '9999999999/day', '1/99999999 weeks'):
            with self.subTest(text=text):
                with self.assertRaises(ValueError):
                    parse_rates(text)

    @given(st.text('0123456789/;smhdwaeinoutyk .-', max_size=20))
    def test_nothing_else_is_raised(self, text):
        try:
            rates = parse_rates(text)
        except ValueError:
            return
        for rate in rates:
            self.assertGreater(rate.count, 0)
            self.assertGreater(rate.period, 0)
        self.assertEqual(
            len({rate.period for rate in rates}), len(rates))
