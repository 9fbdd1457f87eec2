# SPDX-License-Identifier: GPL-3.0-or-later

"""A throwaway Mailman site, an SMTP server that keeps a record, and both at
work: `python -m mailman_mta_pool.demo`."""
