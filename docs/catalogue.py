# SPDX-License-Identifier: GPL-3.0-or-later
"""The table of the catalogue of answers, made of its file."""

import csv

from configparser import RawConfigParser
from io import StringIO


HEAD = """\
.. csv-table::
   :header: about, entry, where, reply, source
   :widths: 8, 14, 10, 40, 28

"""


def catalogue_table(text):
    """Draw a file of answers as a table in reStructuredText.

    :param text: What the file says; [answer.master] is not drawn.
    :return: The table, with a row for each entry in the order of the file.
    """
    parser = RawConfigParser()
    parser.read_string(text)
    master, *entries = parser.sections()
    rows = StringIO()
    writer = csv.writer(rows, quoting=csv.QUOTE_ALL, lineterminator='\n')
    for name in entries:
        entry = {**parser[master], **parser[name]}
        about, stage, reply, source = (
            ' '.join(entry[key].split())
            for key in ('about', 'stage', 'reply', 'source'))
        writer.writerow((
            about, name.partition('.')[2], stage, f'``{reply}``', source))
    return HEAD + ''.join(
        f'   {row}\n' for row in rows.getvalue().splitlines())
