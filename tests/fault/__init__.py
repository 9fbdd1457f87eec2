# SPDX-License-Identifier: GPL-3.0-or-later
"""Servers that misbehave, signals, full disks: with real runners.

They take long, so `tox -e fault` runs them, and not the plain test line.
"""
