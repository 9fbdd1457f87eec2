# SPDX-License-Identifier: GPL-3.0-or-later
"""As whom we log in at a relay: AUTH (RFC 4954), passwords and tokens."""
