# SPDX-License-Identifier: GPL-3.0-or-later
"""How many messages, recipients and connections a period may have."""
