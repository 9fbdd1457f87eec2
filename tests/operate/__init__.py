# SPDX-License-Identifier: GPL-3.0-or-later
"""Tests of what the operator is shown, with real processes."""
