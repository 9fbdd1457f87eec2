# SPDX-License-Identifier: GPL-3.0-or-later
"""The text of the plugin's own configuration file."""

import re

from mailman_mta_pool.configuration.files import ConfigurationError
from mailman_mta_pool.configuration.loading import settings_of_plugin
from mailman_mta_pool.settings import Settings
from public import public


PLACE = '/etc/mailman3/mta_pool.cfg'
SECRET = 'hunter2'
SAID = re.compile(rf'^password(?:_command)?[:=].*{SECRET}$', re.MULTILINE)
# What such a text names would be read, imported or waited for.
OUTSIDE = re.compile(r'python:|/(?:dev|proc|sys|run|root|tmp)\b')


@public
def one_input(data):
    """A text makes settings, or there is one line that says why not.

    :raises AssertionError: if that line is none, or has a password in it.
    """
    text = data.decode('utf-8', 'replace')
    if OUTSIDE.search(text):
        return
    try:
        settings = settings_of_plugin(PLACE, text, lambda section: SECRET)
    except ConfigurationError as error:
        line, = str(error).splitlines()
        assert PLACE in line or 'answers' in line, line
        if len(SAID.findall(text)) == text.count(SECRET):
            # It stands where a password is to stand.
            assert SECRET not in line, line
        return
    assert isinstance(settings, Settings)
    assert settings.relays
    if len(SAID.findall(text)) == text.count(SECRET):
        assert SECRET not in repr(settings)
