# SPDX-License-Identifier: GPL-3.0-or-later

"""Run a function inside a Mailman site.

    python -m mailman_mta_pool.demo.inside CONFIGURATION

Mailman's configuration is global to a process and can be initialized only
once in it, so what is done to a throwaway site is done here, in a process of
its own.  Standard input is a pickle of the function, its arguments and its
keywords; standard output is a pickle of what it returned.
"""

import os
import sys
import pickle

from mailman.config import config
from mailman.core.initialize import initialize
from public import public


@public
def main():
    """Initialize Mailman, call the function, commit, answer."""
    # Anything that prints would garble the answer.
    with os.fdopen(os.dup(sys.stdout.fileno()), 'wb') as answer:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        function, arguments, keywords = pickle.load(sys.stdin.buffer)
        initialize(sys.argv[1])
        result = function(*arguments, **keywords)
        config.db.commit()
        pickle.dump(result, answer)


if __name__ == '__main__':
    main()
