# SPDX-License-Identifier: GPL-3.0-or-later
"""The dialogue of `mailman mta-pool check`: the engine's own, step by step."""
