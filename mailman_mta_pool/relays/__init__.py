# SPDX-License-Identifier: GPL-3.0-or-later
"""The mail servers: which, over which connections, and what they taught us."""
