# SPDX-License-Identifier: GPL-3.0-or-later
"""How long a reply asks us to wait."""

import re

from datetime import datetime, timedelta, timezone
from email.utils import parsedate_to_datetime
from mailman_mta_pool.settlement.words import text_of
from mailman_mta_pool.wire.replies import Reply
from public import public
from typing import Optional


# The longest wait in seconds that is believed.
LONGEST_WAIT = 86400.0
# A time of day that is so many seconds ago has just passed; one that is
# longer ago is tomorrow's.
JUST_PASSED = 3600.0

SECONDS_OF_UNIT = {'s': 1, 'm': 60, 'h': 3600, 'd': 86400}

_UNIT = (
    '(?:s(?:ec(?:ond)?s?)?|m(?:in(?:ute)?s?)?|h(?:(?:ou)?rs?)?|d(?:ays?)?)')
_AMOUNT = rf'[0-9]{{1,9}} ?{_UNIT}(?![a-z])'
# "90 seconds", "1h30m", "1 hour and 5 minutes", or "00:05:00"; with a zone
# the last is a time of day.
_DURATION = (
    rf'(?:{_AMOUNT}(?:,? ?(?:and )?{_AMOUNT}){{0,3}}|'
    r'[0-9]{1,2}:[0-9]{2}:[0-9]{2}(?![.:0-9]| ?(?:z\b|utc|gmt|[+-])))')
_ROUGHLY = '(?:(?:about|another|approximately|at least|the next|~) ?)?'
# Where a server names both its limit and the time to wait ("more than 10
# messages in 60 seconds, try again in 5 minutes"), the second one counts.
_DURATIONS = (
    re.compile(
        r'\b(?:again|re-?try|re-?send|wait|come back)\b[^.;0-9]{0,30}? '
        rf'(?:(?:in|after|within|for) )?{_ROUGHLY}({_DURATION})',
        re.IGNORECASE),
    re.compile(
        rf'\b(?:in|after|within|for) {_ROUGHLY}({_DURATION})',
        re.IGNORECASE),
    )
_AMOUNTS = re.compile(r'([0-9]+) ?([smhd])', re.IGNORECASE)

_THEN = r'\b(?:after|until|till|not before|again at|again on)[ :]+'
_ZONE = r'(?: ?(Z|UTC|GMT|[+-][0-9]{2}:?[0-9]{2})\b)'
_TIME = r'([0-9]{2}):([0-9]{2})(?::([0-9]{2})(?:\.[0-9]{1,9})?)?'
_ISO_DATE = re.compile(
    rf'{_THEN}([0-9]{{4}})-([0-9]{{2}})-([0-9]{{2}})(?:T|,? ){_TIME}{_ZONE}?',
    re.IGNORECASE)
# RFC 5322, section 3.3.
_MAIL_DATE = re.compile(
    rf'{_THEN}((?:[a-z]{{3}}, ?)?[0-9]{{1,2}} [a-z]{{3}} [0-9]{{4}} '
    r'[0-9]{2}:[0-9]{2}(?::[0-9]{2})?(?: (?:[+-][0-9]{4}|[a-z]{1,5})\b)?)',
    re.IGNORECASE)
_TIME_OF_DAY = re.compile(rf'{_THEN}{_TIME}{_ZONE}', re.IGNORECASE)


@public
def wait_of(reply: Reply, now: datetime) -> Optional[float]:
    """Return how long a reply asks us to wait.

    :param reply: Any reply.
    :param now: The time of the reply, with its time zone.
    :return: Seconds, from 0 to `LONGEST_WAIT`; None if the reply says
        nothing of it, or what makes no sense.
    """
    text = text_of(reply)
    seconds = _duration_in(text)
    if seconds is None:
        then = _moment_in(text, now)
        if then is not None:
            seconds = (then - now).total_seconds()
    if seconds is None:
        return None
    return min(max(0.0, seconds), LONGEST_WAIT)


def _duration_in(text: str) -> Optional[float]:
    for pattern in _DURATIONS:
        match = pattern.search(text)
        if match is None:
            continue
        if ':' in match[1]:
            hours, minutes, seconds = map(int, match[1].split(':'))
            return 3600.0 * hours + 60.0 * minutes + seconds
        return float(sum(
            int(number) * SECONDS_OF_UNIT[unit.lower()]
            for number, unit in _AMOUNTS.findall(match[1])))
    return None


def _moment_in(text: str, now: datetime) -> Optional[datetime]:
    try:
        match = _ISO_DATE.search(text)
        if match is not None:
            *numbers, zone = match.groups()
            year, month, day, hour, minute, second = (
                int(number or 0) for number in numbers)
            return datetime(
                year, month, day, hour, minute, second, tzinfo=_zone_of(zone))
        match = _MAIL_DATE.search(text)
        if match is not None:
            return _with_zone(parsedate_to_datetime(match[1]))
        match = _TIME_OF_DAY.search(text)
        return None if match is None else _next_time(match, now)
    # A TypeError is what Python 3.9 has for a date that is none.
    except (ValueError, TypeError, OverflowError):
        return None


def _with_zone(moment: datetime) -> datetime:
    """Return a date that says nothing of its zone as one in UTC."""
    if moment.tzinfo is None:
        return moment.replace(tzinfo=timezone.utc)
    return moment


def _zone_of(text: Optional[str]) -> timezone:
    if text is None or text[0] not in '+-':
        return timezone.utc
    offset = timedelta(hours=int(text[1:3]), minutes=int(text[-2:]))
    return timezone(-offset if text[0] == '-' else offset)


def _next_time(match: 're.Match[str]', now: datetime) -> datetime:
    """Return the next moment with this time of day, or one just passed."""
    hour, minute, second, zone = match.groups()
    then = now.astimezone(_zone_of(zone)).replace(
        hour=int(hour), minute=int(minute), second=int(second or 0),
        microsecond=0)
    if (now - then).total_seconds() > JUST_PASSED:
        return then + timedelta(days=1)
    if (then - now).total_seconds() > LONGEST_WAIT - JUST_PASSED:
        return then - timedelta(days=1)
    return then
