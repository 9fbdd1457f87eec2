# SPDX-License-Identifier: GPL-3.0-or-later

"""The demo's command line."""

from __future__ import annotations

import sys
import smtplib
import argparse

from mailman_mta_pool.demo.compare import compare, Options
from mailman_mta_pool.demo.recording import ServerError
from mailman_mta_pool.demo.report import report, succeeded
from mailman_mta_pool.demo.site import SiteError
from public import public


PROGRAM = 'python -m mailman_mta_pool.demo'


def _server(text):
    host, colon, port = text.rpartition(':')
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise argparse.ArgumentTypeError(f'not HOST:PORT: {text!r}')
    return host.strip('[]'), int(port)


def _positive(text):
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f'not a positive number: {text!r}')
    return int(text)


def _seconds(text):
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1
    if not 0 <= seconds < 3600:
        raise argparse.ArgumentTypeError(f'not a number of seconds: {text!r}')
    return seconds


def _parser():
    parser = argparse.ArgumentParser(
        prog=PROGRAM, description="Deliver the same VERP'd post with stock "
        'Mailman and with the pool, by real runners, and compare.')
    parser.add_argument('--members', type=_positive, default=1000)
    parser.add_argument('--threads', type=_positive, default=8,
                        help='[mta] max_delivery_threads of the pool')
    parser.add_argument('--smtp', type=_server, metavar='HOST:PORT',
                        help='deliver to this server, not to one of our own')
    parser.add_argument('--delay', type=_seconds, default=0,
                        metavar='SECONDS', help='time that our own server '
                        'takes for each command')
    parser.add_argument('--chunking', action='store_true',
                        help='let our own server offer CHUNKING')
    parser.add_argument('--keep', action='store_true',
                        help="leave the site's directory behind")
    return parser


def _check_server(host, port):
    """Say hello, so that a mistake is known before the site is made."""
    try:
        with smtplib.SMTP(host, port, timeout=30) as server:
            server.ehlo_or_helo_if_needed()
    except (OSError, smtplib.SMTPException) as error:
        raise ServerError(
            f'no SMTP server at {host}:{port}: {error}') from error


def _run(options):
    if options.smtp is not None:
        _check_server(*options.smtp)
    results = compare(options)
    print(report(results), end='', flush=True)
    return 0 if succeeded(results) else 1


@public
def run(arguments=None):
    """Run the demo.

    :param arguments: The command line, by default that of the process.
    :return: The exit status: 0, or 1 when somebody was lost or served twice
        or got something else, 2 for errors.
    """
    options = Options(**vars(_parser().parse_args(arguments)))
    try:
        return _run(options)
    except (OSError, SiteError, ServerError) as error:
        print(f'{PROGRAM}: {_last_line(error)}', file=sys.stderr)
        return 2


def _last_line(error):
    # A traceback from a child process says it in its last line.
    lines = str(error).splitlines() or [type(error).__name__]
    return lines[-1]
