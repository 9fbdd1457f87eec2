# SPDX-License-Identifier: GPL-3.0-or-later
"""Dialogues with a relay that answers by a rule, in plain text."""

from itertools import groupby
from mailman_mta_pool.wire.transaction import Stage
from public import public


WIDTH = 48
# Of so many recipients in a row with the same answer all are shown; of more,
# the first one and the last one.
MAX_ALIKE = 4
OK = '250 Ok'


@public
class Dialogue:
    """The rule of a `tests.settlement.world.World`, which notes what is said.

    A transaction begins with MAIL.  The content of one is shown as DATA, and
    a transaction whose recipients are all refused ends with RSET, as a
    question does.
    """

    def __init__(self, refuse):
        """Begin with nothing said.

        :param refuse: The rule itself: called with the stage, the recipient
            or None, and the transaction, it returns the text of a refusal, or
            None.
        """
        self._refuse = refuse
        self._transactions = []

    def __call__(self, stage, transaction, recipient, number):
        """See `tests.settlement.world.World`."""
        answer = self._refuse(stage, recipient, transaction) or OK
        if stage is Stage.mail:
            lines = [(f'MAIL FROM:<{transaction.sender}>', answer)]
            self._transactions.append(lines)
            return None if answer is OK else answer
        lines = self._transactions[-1]
        if stage is Stage.rcpt:
            lines.append((f'RCPT TO:<{recipient}>', answer))
            if transaction.asks and len(lines) > len(transaction.recipients):
                lines.append(('RSET', OK))
        elif any(line[1] is OK for line in lines[1:]):
            lines.append(('DATA and the content', answer))
        else:
            lines.append(('RSET', OK))
        return None if answer is OK else answer

    def show(self, first, last=None):
        """Print transactions.

        :param first: The first of them, as an index.
        :param last: The index after the last of them; None for all.
        """
        for lines in self._transactions[first:last]:
            for _, run in groupby(lines, lambda line: (
                    line[0].partition(':')[0], line[1])):
                alike = list(run)
                if len(alike) > MAX_ALIKE:
                    alike[1:-1] = [(f'… ({len(alike) - 2} more)', '')]
                for command, answer in alike:
                    print(f'{command:<{WIDTH}}{answer}'.rstrip())
