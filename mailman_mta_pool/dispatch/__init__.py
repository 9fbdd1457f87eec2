# SPDX-License-Identifier: GPL-3.0-or-later
"""One post on its way: who takes a transaction, and who tries again."""
