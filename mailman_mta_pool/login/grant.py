# SPDX-License-Identifier: GPL-3.0-or-later
"""Tokens as a program prints them, or as an endpoint grants them."""

import json
import math

from mailman_mta_pool.errors import TokenUnavailable
from mailman_mta_pool.programs import (
    arguments_in,
    line_in,
    output_of,
    ProgramFailed,
)
from mailman_mta_pool.secret import Secret
from mailman_mta_pool.shown import printable
from public import public
from typing import Any, Callable, List, NamedTuple, Protocol


# A program may print JSON with more than a token; in octets.
MAX_OUTPUT = 64 * 1024
# No token is longer, in characters.
MAX_TOKEN = 8192
# The longest life of a token, in seconds.  Some providers name a greater one
# for a token that never expires.
MAX_LIFE = 10 * 365 * 86400.0
public(MAX_LIFE=MAX_LIFE, MAX_OUTPUT=MAX_OUTPUT, MAX_TOKEN=MAX_TOKEN)


@public
class Grant(NamedTuple):
    """A token as it was got.

    :ivar token: The token.
    :ivar expires_in: After how many seconds it expires; infinite if that was
        not said.
    :ivar refresh_token: Another refresh token for the next time; empty if the
        last one stays good.
    """

    token: Secret
    expires_in: float = math.inf
    refresh_token: Secret = Secret()


@public
def grant_in(found: Any) -> Grant:
    """Return the token in a response (RFC 6749, section 5.1).

    :param found: What the JSON says.
    :raises ValueError: if it makes no sense; it says why, after what it is,
        and shows no value.
    """
    if not isinstance(found, dict):
        raise ValueError('is no JSON object')
    if 'access_token' not in found:
        raise ValueError('has no access_token')
    kind = found.get('token_type', 'Bearer')
    if not isinstance(kind, str) or kind.lower() != 'bearer':
        raise ValueError('has another token_type than Bearer')
    return Grant(
        _token(found['access_token'], 'access_token'),
        _life(found.get('expires_in')),
        _token(found['refresh_token'], 'refresh_token')
        if found.get('refresh_token') else Secret())


def _token(value: Any, key: str) -> Secret:
    if not isinstance(value, str) or not value:
        raise ValueError(f'has no text as {key}')
    if len(value) > MAX_TOKEN or len(value.encode(
            'utf-8', 'replace')) > MAX_TOKEN:
        raise ValueError(f'has an {key} longer than {MAX_TOKEN} octets')
    if not value.isprintable():
        # A separator of OAUTHBEARER among them.
        raise ValueError(f'has characters in {key} that no token has')
    return Secret(value)


def _life(value: Any) -> float:
    if value is None:
        return math.inf
    try:
        # Some write it in quotation marks.
        life = float(value)
    except OverflowError:
        life = math.inf
    except (TypeError, ValueError):
        life = math.nan
    if isinstance(value, bool) or not life > 0:
        raise ValueError('has an expires_in that makes no sense')
    return min(life, MAX_LIFE)


@public
def json_in(octets: bytes) -> Any:
    """Return what some JSON says.

    :param octets: The JSON.
    :raises ValueError: if it is none; it says so, and shows nothing.
    """
    try:
        return json.loads(octets)
    except (ValueError, RecursionError):
        pass
    # Not within an `except`: the error holds the text.
    raise ValueError('is no JSON')


@public
def printed_grant(octets: bytes) -> Grant:
    """Return the token that a program has printed.

    :param octets: A bare token on one line, or JSON.
    :raises ValueError: if it is neither; see `grant_in`.
    """
    if octets.lstrip().startswith(b'{'):
        return grant_in(json_in(octets))
    return Grant(_token(line_in(octets), 'token'))


@public
class Source(Protocol):
    """Where `Tokens` has its tokens from."""

    def fetch(self) -> Grant:
        """Return a token; called in a thread of its own, for it waits.

        :raises TokenUnavailable: if there is none.
        """

    def abort(self) -> None:
        """End the fetch that was begun last; called in another thread."""

    def failure(self, problem: str) -> TokenUnavailable:
        """Return an error that says where the operator can mend a problem.

        :param problem: What the source did, after its name.
        """


@public
class CommandSource:
    """Has a program print tokens; see `Source`."""

    def __init__(self, command: Secret, key: str,
                 run: Callable[[List[str], int], bytes] = output_of) -> None:
        """Prepare; nothing is run.

        :param command: The program and its arguments, as in a shell.
        :param key: The key that says so, with its section.
        :param run: See `programs.output_of`.
        """
        self._arguments = arguments_in(command.reveal())
        self._key = key
        self._run = run

    def fetch(self) -> Grant:
        """See `Source`."""
        try:
            return printed_grant(self._run(self._arguments, MAX_OUTPUT))
        except ProgramFailed as error:
            problem = str(error)
        except ValueError as error:
            problem = f'printed what {error}'
        raise self.failure(problem)

    def abort(self) -> None:
        """See `Source`; the program has a time limit of its own."""

    def failure(self, problem: str) -> TokenUnavailable:
        """See `Source`."""
        return TokenUnavailable(printable(
            f'there is no token: the program of {self._key} {problem}; run it '
            'by hand as the user of Mailman, it has to print a token on one '
            'line, or JSON with access_token and expires_in'))
