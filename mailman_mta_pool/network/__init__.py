# SPDX-License-Identifier: GPL-3.0-or-later
"""The network thread, and the border between it and the main thread."""
