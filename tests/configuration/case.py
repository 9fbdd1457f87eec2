# SPDX-License-Identifier: GPL-3.0-or-later
"""What tests of relays in a configuration file have in common."""

import unittest

from mailman_mta_pool.configuration.files import ConfigurationError
from mailman_mta_pool.configuration.loading import settings_of_plugin
from pathlib import Path
from public import public
from tempfile import TemporaryDirectory


PATH = '/etc/mailman3/mta_pool.cfg'
#: What no line is ever to show.
SECRET = 'hunter2'
public(PATH=PATH, SECRET=SECRET)


def unexpected(section):
    """A program for a password that no test is to run."""
    raise AssertionError(section.name)


@public
class FileTestCase(unittest.TestCase):
    """A test case with texts of the plugin's own file."""

    def setUp(self):
        directory = TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = Path(directory.name)

    def file(self, name, text):
        """Write a file, and return its path."""
        path = self.directory / name
        path.write_bytes(text.encode('utf-8'))
        return path

    def loaded(self, text, run=unexpected):
        """The settings that a text makes."""
        return settings_of_plugin(PATH, text, run)

    def relay(self, text, run=unexpected):
        """The relay of a section [relay.a] with a host and these lines."""
        relay, = self.loaded(
            f'[relay.a]\nhost: a.example.com\n{text}', run).relays
        return relay

    def mistake(self, text, *words, run=unexpected):
        """The line about a mistake, which names the file and some words."""
        with self.assertRaises(ConfigurationError) as caught:
            self.loaded(text, run)
        line, = str(caught.exception).splitlines()
        self.assertTrue(line.startswith(f'{PATH}: '), line)
        self.assertNotIn(SECRET, line)
        for word in words:
            self.assertIn(word, line)
        return caught.exception
