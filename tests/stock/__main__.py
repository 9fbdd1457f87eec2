# SPDX-License-Identifier: GPL-3.0-or-later

"""Compare our `deliver` with stock under Mailman's own tests.

The exit status is 0 only if ours passes everything that stock passes here,
and was called at all.
"""

import sys
import argparse

from tests.stock.comparison import OURS, run, STOCK


def _describe(deliver, results):
    return '{}: called {} times; {} passed, {} failed'.format(
        deliver, results.calls, len(results.passed), len(results.failed))


def main():
    """Run the command.

    :return: The exit status.
    """
    parser = argparse.ArgumentParser(
        prog='python -m tests.stock', description=__doc__)
    parser.add_argument(
        '--deliver', default=OURS, metavar='NAME',
        help='The dotted name of another function to put in the place of '
             'Mailman\'s own (default: %(default)s)')
    arguments = parser.parse_args()
    print('Mailman\'s tests with', STOCK, flush=True)
    stock = run(STOCK)
    print('\nMailman\'s tests with', arguments.deliver, flush=True)
    ours = run(arguments.deliver)
    worse = sorted(stock.passed - ours.passed)
    print()
    print(_describe(STOCK, stock))
    print(_describe(arguments.deliver, ours))
    for name in sorted(ours.failed & stock.failed):
        print('fails with both:', name)
    for name in worse:
        print('passes only with stock:', name)
    called = ours.calls > 0 and len(stock.passed) > 0
    if not called:
        print('the function was never called, so that nothing is shown')
    print('{} passed, {} failed'.format(len(ours.passed), len(worse)))
    return 0 if called and not worse else 1


if __name__ == '__main__':
    sys.exit(main())
