# SPDX-License-Identifier: GPL-3.0-or-later
"""The catalogue of answers, from its files to values."""

import re

from functools import lru_cache
from importlib.resources import files
from mailman_mta_pool.configuration.files import (
    ConfigurationError,
    parsed,
    refuse_unknown_keys,
    Section,
    sections_of,
)
from mailman_mta_pool.settings import About, Answer
from public import public
from typing import Dict, FrozenSet, Tuple


SHIPPED = 'answers.cfg'
MASTER = 'answer.master'
STAGES = ('greeting', 'ehlo', 'auth', 'mail', 'rcpt', 'data', 'end')
# Longer patterns are hardly meant, and would take long to search for.
PATTERN_LENGTH = 300

_NAME = re.compile(r'answer\.[a-z0-9][a-z0-9_-]*')
_CODES = re.compile(r'[45](?:[0-9]{2}|xx)(?:\|[45](?:[0-9]{2}|xx))*')
_ONE_ENHANCED = r'[45x]\.(?:[0-9]{1,3}|x)\.(?:[0-9]{1,3}|x)'
_ENHANCED = re.compile(rf'{_ONE_ENHANCED}(?:\|{_ONE_ENHANCED})*')


@public
def answers_in(text: str, place: str) -> Tuple[Answer, ...]:
    """Return the entries of a file, in the order of the file.

    :param text: What the file says.
    :param place: The file, for error messages.
    :raises ConfigurationError: naming the file, the section and the key of
        the first mistake.
    """
    return _answers(text, place, _documented())


@public
@lru_cache(maxsize=None)
def shipped_answers() -> Tuple[Answer, ...]:
    """Return the entries that the package brings along."""
    return answers_in(_shipped_text(), SHIPPED)


def _shipped_text() -> str:
    path = files('mailman_mta_pool') / 'settlement' / SHIPPED
    return path.read_text('utf-8')


@lru_cache(maxsize=None)
def _documented() -> Dict[str, str]:
    """Return the keys that an entry has, with their defaults."""
    return dict(parsed(_shipped_text(), SHIPPED)[MASTER])


def _answers(text: str, place: str,
             documented: Dict[str, str]) -> Tuple[Answer, ...]:
    own = parsed(text, place)
    defaults, answers = documented, []
    for name in sections_of(own):
        if _NAME.fullmatch(name) is None:
            raise ConfigurationError(
                place, f'[{name}]', 'is not [answer.NAME], with a NAME of '
                'small letters, digits, - and _')
        refuse_unknown_keys(place, own, name, documented, SHIPPED)
        if name == MASTER:
            # What holds for those below, as always with lazr.config.
            defaults = {**defaults, **own[name]}
            continue
        answers.append(_answer(name, Section(
            place, name, {**defaults, **own[name]})))
    return tuple(answers)


def _answer(name: str, section: Section) -> Answer:
    codes, enhanced, text = _reply(section)
    scopes = [about.value for about in About]
    return Answer(
        name=name.partition('.')[2],
        stages=section.value(
            'stage', _stages, f'any, or some of {", ".join(STAGES)}'),
        codes=codes, enhanced=enhanced, text=text,
        about=About(section.choice('about', *scopes)),
        wait=section.seconds('wait') if section.text('wait') else None,
        remedy=_line(section, 'remedy'),
        source=_line(section, 'source'),
        )


def _line(section: Section, key: str) -> str:
    """Return a text that may go over several lines as one."""
    return ' '.join(section.text(key).split())


def _stages(text: str) -> FrozenSet[str]:
    words = text.lower().split()
    if words == ['any']:
        return frozenset(STAGES)
    if len(words) == 0 or not set(words) <= set(STAGES):
        raise ValueError(text)
    return frozenset(words)


def _reply(section: Section) -> Tuple[
        Tuple[str, ...], Tuple[str, ...], str]:
    """Return the codes, the enhanced codes and the pattern of an entry."""
    line = _line(section, 'reply')
    codes, _, rest = line.partition(' ')
    if _CODES.fullmatch(codes) is None:
        raise section.mistake(
            'reply', f'{line!r} does not begin with a reply code such as '
            '550, 550|554 or 5xx')
    enhanced, _, text = rest.partition(' ')
    if _ENHANCED.fullmatch(enhanced) is None:
        enhanced, text = '', rest
    for one in filter(None, enhanced.split('|')):
        if one[0] not in {'x', *(code[0] for code in codes.split('|'))}:
            raise section.mistake(
                'reply', f'{one} goes with no reply code of {codes}')
    if len(text) > PATTERN_LENGTH:
        raise section.mistake(
            'reply', f'the text has {len(text)} characters, over '
            f'{PATTERN_LENGTH}; a few words of the reply are enough')
    try:
        re.compile(text, re.IGNORECASE)
    except (re.error, OverflowError, RecursionError) as error:
        raise section.mistake(
            'reply', f'{text!r} is not a regular expression: {error}; put '
            'a \\ before each of . ? * + ( ) [ that is meant '
            'literally') from None
    return (tuple(codes.split('|')),
            tuple(enhanced.split('|')) if enhanced else (), text)
