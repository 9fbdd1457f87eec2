# SPDX-License-Identifier: GPL-3.0-or-later

"""Mailman's own tests of outgoing delivery, with our `deliver` swapped in.

`python -m tests.stock` runs them twice, see `tests.stock.comparison`.
"""
