# SPDX-License-Identifier: GPL-3.0-or-later
"""Outgoing delivery for GNU Mailman 3 over a pool of SMTP connections."""
