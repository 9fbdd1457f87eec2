# SPDX-License-Identifier: GPL-3.0-or-later
"""Relays and limits in the plugin's own file."""
