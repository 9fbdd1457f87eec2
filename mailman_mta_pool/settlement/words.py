# SPDX-License-Identifier: GPL-3.0-or-later
"""The words of a reply, by which two refusals are found to be alike."""

import re

from mailman_mta_pool.wire.replies import Reply
from public import public
from typing import Optional


# So many characters of a reply are read.  A server may send a hundred lines
# of 2 KiB each, and what it has to say stands in the first few.
TEXT_LENGTH = 2000
# So many characters of its words are kept.
WORDS_LENGTH = 200

# RFC 3463, section 2, anywhere in a line: after "#", in parentheses or in
# brackets, as qmail and its relatives write it.  The eight subjects of
# section 3 keep dates apart; what stands around it, IP addresses, versions
# and host names.
_ENHANCED = re.compile(
    r'(?<![\w./@-])(?<!version )([245]\.[0-7]\.[0-9]{1,3})'
    r'(?!\.?\w)(?![/@-]\w)', re.ASCII | re.IGNORECASE)

_DAYS = '(?:mon|tues?|wed(?:nes)?|thu(?:rs?)?|fri|sat(?:ur)?|sun)(?:day)?'
_MONTHS = (
    '(?:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|'
    'aug(?:ust)?|sep(?:t(?:ember)?)?|oct(?:ober)?|nov(?:ember)?|'
    'dec(?:ember)?)')
# What tells two answers to the same question apart, in the order in which it
# is taken out.  No pattern begins in the middle of what it repeats, so that
# none takes more than linear time.
_PARTICULARS = re.compile('|'.join((
    # URLs.
    r'(?<![a-z0-9+.-])[a-z][a-z0-9+.-]{0,30}://\S*',
    # What stands in angle brackets is an address or a host name.
    r'<[^<>]*>',
    # Addresses, with a quoted local part or without.
    r'"[^"\s]*(?:\s[^"\s]*)?"@\S*',
    r'(?<!\S)\S*@\S*',
    # IPv6 addresses.
    r'(?<![0-9a-f:])(?:[0-9a-f]{0,4}:){2,8}[0-9a-f.]*(?:%\w+)?',
    # The days and months of a date.  That "may" goes wherever it stands
    # makes no two answers alike that are not.
    rf'(?<![^\W\d_])(?:{_DAYS}|{_MONTHS})(?![^\W\d_])',
    )), re.IGNORECASE)
# What may be a word, a number, a queue id or a host name.
_TOKEN = re.compile(r"\w+(?:[.'_-]+\w+)*")
# A number or what has one in it; a host name; a word that is all hexadecimal
# digits; and one without vowels, as a long queue id of Postfix may be.
_NO_WORD = re.compile(
    r'[^\d]*\d|[^.]*\.|[0-9a-f]{8,}$|[b-df-hj-np-tv-z]{8,}$')

# What stands for an address that is not to be shown.
HIDDEN_ADDRESS = '<...>'
_ADDRESSES = re.compile(
    r'<[^<>]*@[^<>]*>|"[^"\s]*(?:\s[^"\s]*)?"@\S*', re.IGNORECASE)
# How an at sign is written in the query of a URL, and in other codes.
_AT_SIGN = re.compile('@|%40|=40', re.IGNORECASE)
_PUNCTUATION = ' \'"`<>()[]{},;:.!?'


@public
def without_addresses(text: str, address: str = '') -> str:
    """Return a text in which no mail address shows.

    :param text: What a server said.
    :param address: The address of which it was said, or ''.  Its local part
        is not shown as a word of its own either.
    :return: The text with one space for each run of white space, and
        `HIDDEN_ADDRESS` in the place of addresses.
    """
    local, _, domain = address.lower().rpartition('@')
    words = []
    for word in _ADDRESSES.sub(HIDDEN_ADDRESS, text).split():
        bare = word.strip(_PUNCTUATION).lower()
        if _AT_SIGN.search(word) is not None or local != '' and (
                bare == local or local in bare and domain in bare):
            word = HIDDEN_ADDRESS
        words.append(word)
    return ' '.join(words)


@public
def text_of(reply: Reply) -> str:
    """Return the text of a reply on one line.

    :param reply: Any reply.
    :return: Its lines with each run of white space made one space, at most
        `TEXT_LENGTH` characters of them.
    """
    octets = reply.text[:2 * TEXT_LENGTH]
    return ' '.join(octets.decode('utf-8', 'replace').split())[:TEXT_LENGTH]


@public
def enhanced_of(reply: Reply) -> Optional[str]:
    """Return the enhanced status code, wherever in the reply it stands.

    :param reply: Any reply.
    :return: The first one whose class is that of the reply code (RFC 2034,
        section 4), such as '5.7.1'; None if there is none.
    """
    if reply.enhanced is not None:
        return reply.enhanced
    kind = f'{reply.code // 100}.'
    for match in _ENHANCED.finditer(text_of(reply)):
        if match[1].startswith(kind):
            return match[1]
    return None


@public
def words_of(reply: Reply) -> str:
    """Return what a reply says, without the particulars of one recipient.

    Replies that differ only in addresses, numbers, host names, queue ids,
    URLs and dates have the same words.

    :param reply: Any reply.
    :return: The reply code, the enhanced status code if there is one, and
        the words in lower case, at most `WORDS_LENGTH` characters.
    """
    text = _PARTICULARS.sub(' ', text_of(reply)).lower()
    parts = [str(reply.code), enhanced_of(reply) or '']
    parts += [token for token in _TOKEN.findall(text)
              if _NO_WORD.match(token) is None]
    return ' '.join(filter(None, parts))[:WORDS_LENGTH]
