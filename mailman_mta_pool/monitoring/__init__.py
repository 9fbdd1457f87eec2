# SPDX-License-Identifier: GPL-3.0-or-later
"""What the operator is shown: state files, queues, metrics, REST, report.

Nothing here imports the engine, and nothing here is heavy: every `mailman`
command may load it.
"""
