# SPDX-License-Identifier: GPL-3.0-or-later
"""What was settled, on disk, so that nobody is served twice."""
