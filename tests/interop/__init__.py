# SPDX-License-Identifier: GPL-3.0-or-later

"""Our side of the dialogue against mail servers that others wrote.

It takes longer than the other tests and is no part of the plain test line,
hence the names of the modules: `tox -e interop` runs them.  A server that is
not installed is skipped; see tests/servers/install.sh.
"""
