# SPDX-License-Identifier: GPL-3.0-or-later
"""The judgement of one reply: whom it is about, before what it means.

First the catalogue is asked, `answers.cfg`; then the table of enhanced status
codes below.  What neither knows proves nothing: the answers to others tell,
and `contrast` compares them.
"""

import re

from datetime import datetime, timezone
from functools import lru_cache, partial
from mailman_mta_pool.keys import in_words_of
from mailman_mta_pool.settings import About, RelaySettings
from mailman_mta_pool.settlement.catalogue import Catalogue
from mailman_mta_pool.settlement.waits import wait_of
from mailman_mta_pool.settlement.words import enhanced_of, words_of
from mailman_mta_pool.wire.replies import Reply
from mailman_mta_pool.wire.transaction import Fate, Outcome, Result, Stage
from public import public
from typing import (
    Callable,
    FrozenSet,
    List,
    NamedTuple,
    Optional,
    Pattern,
    Tuple,
)


@public
class Judgement(NamedTuple):
    """What a refusal is about.

    :ivar about: Whom or what; None if the reply proves nothing.
    :ivar stage: The command that was refused.
    :ivar reply: The refusal.
    :ivar wait: How many seconds the reply asks to wait.
    :ivar remedy: A sentence for the log, which may be empty.
    :ivar usual: How many seconds to wait at first, by the catalogue.
    """

    about: Optional[About]
    stage: Stage
    reply: Reply
    wait: Optional[float] = None
    remedy: str = ''
    usual: Optional[float] = None

    @property
    def is_permanent(self) -> bool:
        """True if the recipient would be charged with a bounce.

        RFC 5321, section 4.5.3.1.10: 552 is to be treated as temporary.
        """
        return self.reply.code >= 500 and self.reply.code != _STORAGE_CODE

    @property
    def is_final(self) -> bool:
        """True if the server does not want to be asked again: 5xx."""
        return self.reply.code >= 500

    @property
    def words(self) -> str:
        """The server's words, without what differs from case to case."""
        return words_of(self.reply)

    @property
    def needs_login(self) -> bool:
        """True if the server demands that we authenticate."""
        return needs_login(self.reply)

    @property
    def is_size(self) -> bool:
        """True if the message is too large for this server."""
        return self.about is About.message and _matches(self.reply, _SIZE)


class _Row(NamedTuple):
    stages: FrozenSet[Stage]
    #: For the reply code and the enhanced status code, if there is one.
    answer: str
    about: About


_STORAGE_CODE = 552
# RFC 4954, section 6.
_LOGIN_NEEDED_CODE = 530
ANY = frozenset(Stage)
MAIL = frozenset([Stage.mail])
RCPT = frozenset([Stage.rcpt])
CONTENT = frozenset([Stage.data, Stage.end])
_NO_RCPT = MAIL | CONTENT
public(CONTENT=CONTENT)

# The first row that fits.  The codes are those of RFC 5321, section 4.2.3,
# and RFC 3463, which is also where the enhanced status codes are.  A code
# that is not here proves nothing: x.7.x, x.1.0, other x.5.x, a bare code.
TABLE: Tuple[_Row, ...] = (
    # Authentication required.
    _Row(ANY, '530 ', About.us),
    # Too many recipients.
    _Row(ANY, r'... [245]\.5\.3$', About.recipients),
    # Bad sender's mailbox, or its system.
    _Row(ANY, r'... [45]\.1\.[78]$', About.sender),
    # Of MAIL, an address is the sender's.
    _Row(MAIL, r'... [45]\.1\.', About.sender),
    # Mailbox, domain and syntax; moved; null MX (RFC 7505); and the mailbox.
    _Row(RCPT | CONTENT, r'... [45]\.1\.(1|2|3|6|10)$', About.recipient),
    _Row(RCPT | CONTENT, r'... [45]\.2\.\d+$', About.recipient),
    # Too large; and what is wrong with the content or its form.
    _Row(ANY, r'5.. 5\.3\.4$', About.message),
    _Row(_NO_RCPT, r'5.. 5\.6\.\d+$', About.message),
    _Row(_NO_RCPT, '552 ', About.message),
    _Row(RCPT, '552 ', About.recipient),
    )
_SIZE = re.compile(r'5.. 5\.3\.4$')
_AUTHENTICATE = re.compile(rb'authenticat', re.IGNORECASE)
_SECURITY = '5.7.0'


def _codes(reply: Reply) -> str:
    return f'{reply.code} {enhanced_of(reply) or ""}'


def _matches(reply: Reply, pattern: Pattern[str]) -> bool:
    return pattern.match(_codes(reply)) is not None


@public
def is_accepted(result: Result) -> bool:
    """Return True if the server accepted a recipient it was asked about.

    :param result: Of a recipient of a question.
    """
    return result.reply is not None and result.reply.code < 300


@public
def needs_login(reply: Reply) -> bool:
    """Return True if the server demands that we authenticate.

    :param reply: A refusal.
    """
    return reply.code == _LOGIN_NEEDED_CODE or (
        reply.code >= 500 and enhanced_of(reply) == _SECURITY and
        _AUTHENTICATE.search(reply.text) is not None)


def _now() -> datetime:
    return datetime.now(timezone.utc)


@public
class Judge:
    """Says of a refusal whom it is about."""

    def __init__(self, catalogue: Catalogue,
                 now: Callable[[], datetime] = _now,
                 relay: Optional[RelaySettings] = None) -> None:
        """Prepare.

        :param catalogue: What servers are known to say.
        :param now: The time of day, for replies that name a time.
        :param relay: Whose keys a remedy names; None is the server of [mta].
        """
        self._catalogue = catalogue
        self._now = now
        self._remedy = lru_cache(maxsize=None)(
            partial(in_words_of, relay or RelaySettings()))

    def judge(self, stage: Stage, reply: Reply) -> Judgement:
        """Judge a reply to one of the commands of a transaction.

        :param stage: The command.
        :param reply: A refusal, 4xx or 5xx.
        """
        answer = self._catalogue.find(_WORDS.get(stage, ''), reply)
        if answer is not None:
            return self._complete(Judgement(
                answer.about, stage, reply,
                remedy=self._remedy(answer.remedy), usual=answer.wait))
        return self._complete(Judgement(_about(stage, reply), stage, reply))

    def judge_opening(self, word: str, reply: Reply) -> Judgement:
        """Judge a reply that kept a connection from being opened.

        :param word: 'greeting', 'EHLO' or 'AUTH'.
        :param reply: The refusal.
        """
        answer = self._catalogue.find(word.lower(), reply)
        if answer is None:
            return Judgement(None, Stage.connect, reply)
        return self._complete(Judgement(
            answer.about, Stage.connect, reply,
            remedy=self._remedy(answer.remedy), usual=answer.wait))

    def _complete(self, judgement: Judgement) -> Judgement:
        """Read how long the server wants us to wait."""
        if judgement.about not in OF_THE_RELAY:
            return judgement
        said = wait_of(judgement.reply, self._now())
        return judgement if said is None else judgement._replace(wait=said)


_WORDS = {
    Stage.mail: 'mail', Stage.rcpt: 'rcpt', Stage.data: 'data',
    Stage.end: 'end'}
OF_THE_RELAY = frozenset([About.rate, About.quota, About.connections])
public(OF_THE_RELAY=OF_THE_RELAY)


def _about(stage: Stage, reply: Reply) -> Optional[About]:
    if needs_login(reply):
        return About.us
    answer = _codes(reply)
    for row in TABLE:
        if stage in row.stages and re.match(row.answer, answer):
            return row.about
    return None


# Of the number of recipients.

# RFC 5321, section 4.5.3.1.10, and RFC 3463, section 3.5.  A bare 452 or 552
# may also be about the mailbox.
_TOO_MANY = re.compile(r'(452|552) $|... [45]\.5\.3$')
_TOO_MANY_RECIPIENTS = re.compile(r'... [45]\.5\.3$')
_NUMBER = re.compile(rb'(?<![0-9.])([0-9]{1,6})(?![0-9.]*[0-9])')


@public
def over_the_limit(outcome: Outcome) -> FrozenSet[int]:
    """Return the recipients whose only fault is to have come too late.

    :param outcome: A transaction to several recipients.
    :return: The indices of the recipients that were refused because the
        server had accepted so many before them.  Where Exim refuses the
        content because of these, the accepted ones are among them.
    """
    results = outcome.results
    accepted = [index for index, result in enumerate(results)
                if result.stage in CONTENT]
    if not accepted or len(results) == 1:
        return frozenset()
    # If it took others after them, they are not those too many.
    late = frozenset(
        index for index, result in enumerate(results)
        if index > accepted[-1] and result.stage is Stage.rcpt and
        _refused_with(result, _TOO_MANY))
    if late and _is_refused_for(results, late, accepted):
        return late.union(accepted)
    return late


def _is_refused_for(results: Tuple[Result, ...], late: FrozenSet[int],
                    accepted: List[int]) -> bool:
    """Return True if DATA was refused because of those who were too many."""
    first = results[accepted[0]]
    return (first.stage is Stage.data and first.fate is Fate.refused and
            first.reply is not None and first.reply.code >= 500 and all(
                _code_of(results[index]) == _STORAGE_CODE or
                says_too_many_recipients(results[index]) for index in late))


def _code_of(result: Result) -> int:
    return 0 if result.reply is None else result.reply.code


@public
def says_too_many_recipients(result: Result) -> bool:
    """Return True if the answer names the number of recipients.

    A bare 452 or 552 may also mean a full disk.

    :param result: One of those that are `over_the_limit`.
    """
    return _refused_with(result, _TOO_MANY_RECIPIENTS)


def _refused_with(result: Result, pattern: Pattern[str]) -> bool:
    return (result.fate is Fate.refused and result.reply is not None and
            _matches(result.reply, pattern))


@public
def limit_of(outcome: Outcome) -> int:
    """Return how many recipients the server accepted.

    :param outcome: A transaction in which some were over the limit.
    """
    return sum(result.stage in CONTENT for result in outcome.results)


@public
def limit_in(reply: Reply, recipients: int) -> int:
    """Return how many recipients a transaction may have.

    :param reply: A refusal of the content that is about their number.
    :param recipients: How many the refused transaction had.
    :return: The number that the reply states, if it is smaller than that;
        otherwise half as many.
    """
    stated = [int(number) for number in _NUMBER.findall(reply.text)]
    return max([number for number in stated if 0 < number < recipients],
               default=max(1, recipients // 2))


# Of VERP.

# RFC 5321, section 4.1.1.11: it does not know the parameter; or it knows it,
# but not now.
_UNKNOWN_PARAMETER = frozenset([500, 501, 502, 503, 504, 555])
_NOT_NOW = 455


@public
def refuses_verp(judgement: Judgement) -> bool:
    """Return True if the server does not make senders, whatever it offers.

    :param judgement: Of the answer to a MAIL with XVERP.
    """
    reply = judgement.reply
    return (reply.code in _UNKNOWN_PARAMETER and
            not (enhanced_of(reply) or '').startswith('5.1.'))


@public
def may_mind_verp(judgement: Judgement) -> bool:
    """Return True if XVERP may be the reason for a refusal at MAIL.

    A server that knows nothing of it may have any words for that.

    :param judgement: Of the answer to a MAIL with XVERP.
    """
    return judgement.reply.code == _NOT_NOW or (
        judgement.reply.code >= 500 and
        judgement.about in (None, About.sender))
