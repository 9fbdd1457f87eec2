# SPDX-License-Identifier: GPL-3.0-or-later
"""The tests of the wire engine.

`model` is a mail server written from the RFCs, `witness` watches a client for
them, and `link` lets a conversation talk to both, as slowly and with as much
bad luck as hypothesis can think of.  `MM_POOL_EXAMPLES=100000` asks for more
examples than a usual run has; see `tests.examples`.
"""
