# SPDX-License-Identifier: GPL-3.0-or-later
"""Mailman's side: its signals, its queues, its log."""
