# SPDX-License-Identifier: GPL-3.0-or-later

"""What users are told to run is what .ci/run tests."""

import re
import unittest

from configparser import ConfigParser
from pathlib import Path


ROOT = Path(__file__).resolve().parent.parent


def read_ini(name):
    """Parse a configuration file of the checkout.

    :param name: The file's name.
    :rtype: ConfigParser
    """
    parser = ConfigParser(interpolation=None)
    parser.read(ROOT / name, 'utf-8')
    return parser


class TestSupported(unittest.TestCase):
    """The versions of Python, and the line of README that runs the tests."""

    def setUp(self):
        classifiers = read_ini('setup.cfg')['metadata']['classifiers']
        self.minors = [int(minor) for minor in re.findall(
            r'Python :: 3\.(\d+)$', classifiers, re.MULTILINE)]
        self.assertEqual(self.minors, list(range(9, 14)))

    def test_readme(self):
        readme = ' '.join((ROOT / 'README.rst').read_text('utf-8').split())
        self.assertIn('Python 3.{} to 3.{}.'.format(
            self.minors[0], self.minors[-1]), readme)

    def test_every_python_is_in_the_matrix(self):
        script = (ROOT / '.ci' / 'run').read_text('utf-8')
        matrix = ''.join(
            re.findall(r'^matrix\+?=(.*)$', script, re.MULTILINE))
        tested = {int(minor) for minor in re.findall(r'\bpy3(\d+)', matrix)}
        self.assertEqual(sorted(tested), self.minors)

    def test_one_environment_by_default(self):
        env_list = read_ini('tox.ini')['tox']['env_list']
        self.assertEqual(env_list.split(), ['py'])
