# SPDX-License-Identifier: GPL-3.0-or-later
"""Documents; nose2 looks for them in packages only."""
