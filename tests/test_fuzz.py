# SPDX-License-Identifier: GPL-3.0-or-later
"""The corpus of the fuzzed parsers, tried in every run."""

import unittest

from hypothesis import given, settings, strategies as st
from importlib import import_module
from tests.fuzz.corpus import DATA, inputs_of, TARGETS


def one_input_of(target):
    """Return the function that takes one input."""
    return import_module(f'tests.fuzz.{target}').one_input


class TestCorpus(unittest.TestCase):
    def test_corpus(self):
        for target in TARGETS:
            one_input = one_input_of(target)
            inputs = list(inputs_of(target))
            self.assertGreater(len(inputs), 3)
            for name, octets in inputs:
                with self.subTest(target=target, name=name):
                    one_input(octets)

    def test_no_corpus_without_a_target(self):
        self.assertEqual(
            sorted(path.name for path in DATA.iterdir()), sorted(TARGETS))


class TestAnything(unittest.TestCase):
    @settings(max_examples=50, deadline=None)
    @given(st.sampled_from(TARGETS), st.binary(max_size=200))
    def test_anything(self, target, octets):
        one_input_of(target)(octets)
