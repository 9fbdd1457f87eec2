# SPDX-License-Identifier: GPL-3.0-or-later

"""Which bytes a recipient gets: ours against what stock Mailman makes."""
