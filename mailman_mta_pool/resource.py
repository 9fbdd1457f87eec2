# SPDX-License-Identifier: GPL-3.0-or-later
"""The REST resource: `GET …/plugins/NAME` and `GET …/plugins/NAME/metrics`.

It is read only: Mailman answers 405 to every other method.

Every Mailman process looks at the resource of each plugin when it starts, so
what only an answer needs is imported when it is asked for.
"""

import json
import time

from mailman.config import config
from public import public
from typing import Any, Sequence


@public
class MetricsResource:
    """What Prometheus reads."""

    def on_get(self, request: Any, response: Any) -> None:
        """/plugins/NAME/metrics"""
        from mailman_mta_pool.monitoring.files import (
            read_states,
            state_directory,
        )
        from mailman_mta_pool.monitoring.metrics import CONTENT_TYPE, render
        from mailman_mta_pool.monitoring.queues import queue_summaries
        now = time.time()
        states = read_states(state_directory(config.VAR_DIR)).states
        queues = queue_summaries(config.QUEUE_DIR, now)
        response.content_type = CONTENT_TYPE
        response.text = render(states, queues, now)


@public
class StateResource:
    """What `mailman mta-pool status --json` prints."""

    def on_get(self, request: Any, response: Any) -> None:
        """/plugins/NAME"""
        from mailman_mta_pool.current import current_overview
        response.text = json.dumps(current_overview().to_dict())

    def metrics(self, context: Any, segments: Sequence[str]) -> Any:
        """/plugins/NAME/metrics"""
        return MetricsResource()

    # `mailman.rest.helpers.child` does no more, but it loads falcon.
    setattr(metrics, '__matcher__', 'metrics')
