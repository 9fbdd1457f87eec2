# SPDX-License-Identifier: GPL-3.0-or-later

"""Real mail servers on the loopback interface, for the tests.

Each is a context manager with a `port`, and is gone after the `with`
statement.  `available()` in the modules of those that need installing tells
why a server cannot be run here; `install.sh` installs them.
"""
