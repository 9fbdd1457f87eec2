# SPDX-License-Identifier: GPL-3.0-or-later
"""What an answer means, and what becomes of each recipient."""
