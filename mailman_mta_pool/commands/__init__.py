# SPDX-License-Identifier: GPL-3.0-or-later
"""The `mailman` commands of the plugin; every Mailman process imports them."""
