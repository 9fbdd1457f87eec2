# SPDX-License-Identifier: GPL-3.0-or-later
"""The SMTP dialogue as values and bytes: no socket, no thread, no I/O.

Bytes go in, bytes and outcomes come out; the clock is given from outside.
`Conversation` is the engine; `mailman_mta_pool.connection.session` drives a
socket through it.
"""
