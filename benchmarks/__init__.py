# SPDX-License-Identifier: GPL-3.0-or-later
"""How fast it is, beside stock Mailman and beside a load generator.

Run `python -m benchmarks --help`, or `tox -e bench -- --help`.
"""
