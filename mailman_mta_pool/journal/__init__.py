# SPDX-License-Identifier: GPL-3.0-or-later
"""A record on disk of what was settled, so that nobody is served twice."""
