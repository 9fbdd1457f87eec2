# SPDX-License-Identifier: GPL-3.0-or-later
"""Connections to a mail server.

Sites and documents import the three classes from here.
"""

from mailman_mta_pool.connection.smtp import (
    SMTPConnection,
    SMTPSConnection,
    STARTTLSConnection,
)
from public import public


public(
    SMTPConnection=SMTPConnection,
    SMTPSConnection=SMTPSConnection,
    STARTTLSConnection=STARTTLSConnection,
    )
