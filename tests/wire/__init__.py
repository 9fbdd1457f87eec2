# SPDX-License-Identifier: GPL-3.0-or-later
"""The tests of the wire engine and of the session that drives it.

`model` is a mail server written from the RFCs, `witness` watches a client for
them, and `link` lets a conversation talk to both, as slowly and with as much
bad luck as hypothesis can think of.  With `python -m tests.wire 100000` the
properties are tried with so many examples, other ones at each run.
"""
