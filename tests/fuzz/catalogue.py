# SPDX-License-Identifier: GPL-3.0-or-later
"""The text of a site's own answers."""

import warnings

from mailman_mta_pool.configuration.answers import answers_in
from mailman_mta_pool.configuration.files import ConfigurationError
from mailman_mta_pool.settlement.catalogue import Catalogue
from public import public


PLACE = '/etc/mailman3/answers.cfg'


@public
def one_input(data):
    """A text makes a catalogue, or there is one line that says why not.

    :raises AssertionError: if that line is none.
    """
    text = data.decode('utf-8', 'replace')
    # Of patterns that Python will read otherwise in a later version.
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        try:
            answers = answers_in(text, PLACE)
        except ConfigurationError as error:
            line, = str(error).splitlines()
            assert PLACE in line, line
            return
        Catalogue(answers)
