# SPDX-License-Identifier: GPL-3.0-or-later
"""The meaning of an answer, and the settlement of each recipient."""
