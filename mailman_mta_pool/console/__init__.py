# SPDX-License-Identifier: GPL-3.0-or-later
"""The subcommands of `mailman mta-pool`, each imported when it is called."""
