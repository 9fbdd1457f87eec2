# SPDX-License-Identifier: GPL-3.0-or-later
"""Which bytes a recipient gets; in the main thread only."""
