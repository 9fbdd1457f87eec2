# SPDX-License-Identifier: GPL-3.0-or-later
"""Templates from web servers, fetched within a time limit.

Mailman's own function fetches, in a process of its own.  Its timeouts are for
each read, so that a server that sends an octet now and then could hold the
runner for ever; a process can be ended whatever it waits for.
"""

import os
import re
import sys
import json
import socket
import subprocess

from mailman.utilities import protocols
from mailman_mta_pool.errors import TemplateUnavailable
from public import public
from requests import HTTPError
from typing import NamedTuple, Optional, Tuple


# Mailman waits for 5 s for the connection and for 5 s for each read.
FETCH_TIMEOUT_S = 15.0
# RFC 9110, sections 15.5.9 and 15.6; RFC 8470, section 5.2; RFC 6585,
# section 4: these may be answered in another way later.
_NOT_NOW = frozenset([408, 425, 429, *range(500, 600)])
_LOGIN = re.compile(r'//[^/?#]*@')
_QUERY = re.compile(r'[?#].*', re.DOTALL)


@public
class Answer(NamedTuple):
    """The answer of a web server.

    :ivar status: The status code; 200 if there is a text.
    :ivar text: The template; empty with another status.
    """

    status: int
    text: str = ''


@public
def is_remote(uri: str) -> bool:
    """True if Mailman fetches the URI from a web server."""
    return uri.partition(':')[0].lower() in ('http', 'https')


@public
def printable(uri: str) -> str:
    """Return the URI without what may be secret: login, query, fragment."""
    return _QUERY.sub('?...', _LOGIN.sub('//', uri))


@public
def reason_of(error: BaseException) -> str:
    """Return what lies behind an exception, without any URI.

    The texts of `requests` and `urllib3` repeat the URI, password and all.
    """
    cause: Optional[BaseException] = error
    while cause is not None:
        error, cause = cause, cause.__cause__ or cause.__context__
    if isinstance(error, socket.timeout):
        return 'timed out'
    return getattr(error, 'strerror', None) or type(error).__name__


@public
def fetch(uri: str, username: Optional[str],
          password: Optional[str]) -> Answer:
    """Fetch a template as `mailman.model.template` does.

    :param uri: Where it is; see `is_remote`.
    :param username: The user name for the web server, or None.
    :param password: The password that goes with it.
    :return: The template, or the status with which it was refused.
    :raises TemplateUnavailable: if it cannot be had now.
    """
    login = None if username is None else (username, password)
    try:
        fetched = subprocess.run(
            [sys.executable, '-m', __name__],
            input=json.dumps([uri, login]), encoding='ascii',
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            timeout=FETCH_TIMEOUT_S, cwd=os.sep,
            env={**os.environ, 'PYTHONPATH': os.pathsep.join(
                filter(None, sys.path))})
        status, text = json.loads(fetched.stdout)
    except subprocess.TimeoutExpired:
        status, text = None, f'no complete answer within {FETCH_TIMEOUT_S:g} s'
    except (OSError, ValueError) as error:
        # There is no room for another process, or it was killed.
        status, text = None, reason_of(error)
    if status is None:
        raise TemplateUnavailable(printable(uri), text)
    if status in _NOT_NOW:
        raise TemplateUnavailable(printable(uri), f'status {status}')
    return Answer(status, text)


def _main() -> None:
    """Read a URI and a login; write a status and a text, or a reason."""
    uri, login = json.load(sys.stdin)
    answer: Tuple[Optional[int], str]
    try:
        answer = 200, protocols.get(
            uri, **({} if login is None else {'auth': tuple(login)}))
    except HTTPError as error:
        assert error.response is not None
        answer = error.response.status_code, ''
    except Exception as error:
        # The one who asked decides what becomes of it.
        answer = None, reason_of(error)
    json.dump(answer, sys.stdout)


if __name__ == '__main__':
    _main()
