# SPDX-License-Identifier: GPL-3.0-or-later
"""Misbehaving servers, signals, full disks, bad files: with real runners.

They take long, so `tox -e fault`, `-e ends` and `-e relays` run them, and not
the plain test line.
"""
