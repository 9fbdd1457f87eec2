# SPDX-License-Identifier: GPL-3.0-or-later
"""Configuration files, and the settings that they make."""
