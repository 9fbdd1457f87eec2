# SPDX-License-Identifier: GPL-3.0-or-later
"""Misbehaving servers, signals, full disks, bad files: with real runners.

They take long, so `tox -e fault` runs them, and not the plain test line.
"""
