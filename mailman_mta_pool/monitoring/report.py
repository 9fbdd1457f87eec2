# SPDX-License-Identifier: GPL-3.0-or-later
"""One static page of HTML that says how the delivery is.

The page holds no script and nothing from elsewhere, and its
Content-Security-Policy allows the style sheet that stands in it, by its hash,
and nothing else.
"""

import re
import math
import base64
import hashlib

from datetime import datetime, tzinfo
from importlib.resources import files
from mailman_mta_pool.durations import duration
from mailman_mta_pool.monitoring.chart import minutes_chart, progress_bar
from mailman_mta_pool.monitoring.markup import Child, Element
from public import public
from typing import (
    Any,
    Dict,
    Iterable,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Sequence,
    Tuple,
)


# The sections, by their key, in the order of the page.
TITLES = {
    'advice': 'What to do',
    'posts': 'Posts in progress',
    'hour': 'The last hour',
    'relays': 'Mail servers',
    'queues': 'Queues',
    'failures': 'Failures by cause',
    'last': 'The last posts',
    'counters': 'Since counting began',
    }
MINUTES_PER_ROW = 5
# More causes, or lists with the same cause, make no page that is read.
CAUSE_COUNT = 25
LIST_COUNT = 3
NOTHING = '–'
STATE_CLASSES = {'up': 'good', 'paused': 'care', 'down': 'bad'}
OUTCOME_CLASSES = {
    'accepted': 'good', 'deferred': 'care', 'in_doubt': 'care'}
# The words of a server may name the recipient, and the page is for everybody
# who may read the file.
ADDRESS = re.compile(r'[^\s<>"(),;:]+@[^\s<>"(),;:]+')
ADDRESS_SHOWN = '…@…'

Values = Mapping[str, Any]
Row = Sequence[Child]


class _Column(NamedTuple):
    """A column of a table.

    :ivar head: What stands above it.
    :ivar kind: The class of its cells, such as 'number'.
    """

    head: str
    kind: str = 'text'


class _Times:
    """How times are written, in one time zone."""

    def __init__(self, now: float, zone: Optional[tzinfo]) -> None:
        self._zone = zone
        self._today = self._local(now)

    def _local(self, seconds: Any) -> Optional[datetime]:
        try:
            return datetime.fromtimestamp(seconds, self._zone).astimezone(
                self._zone)
        except (TypeError, ValueError, OverflowError, OSError):
            return None

    def moment(self, seconds: Any) -> Child:
        """Return an element that says the time, and the day if not today."""
        local = self._local(seconds)
        if local is None:
            return NOTHING
        is_today = (self._today is not None and
                    local.date() == self._today.date())
        return self._element(
            local, '%H:%M:%S' if is_today else '%Y-%m-%d %H:%M:%S')

    def now(self) -> Child:
        """Return an element that says the time of the page in full."""
        if self._today is None:
            return NOTHING
        return self._element(self._today, '%Y-%m-%d %H:%M:%S, UTC%z')

    def _element(self, local: datetime, pattern: str) -> Element:
        return Element('time', local.strftime(pattern),
                       datetime=local.isoformat(timespec='seconds'))

    def minute(self, seconds: Any) -> str:
        """Return hours and minutes."""
        local = self._local(seconds)
        return NOTHING if local is None else local.strftime('%H:%M')


@public
def report_page(overview: Values, site: str,
                zone: Optional[tzinfo] = None) -> str:
    """Return the page.

    :param overview: What `mailman_mta_pool.monitoring.overview.Overview`
        returns from `to_dict`.
    :param site: The name of the machine.
    :param zone: The time zone to write times in; the machine's own by
        default.
    :return: HTML, which UTF-8 can encode.
    """
    times = _Times(overview['time'], zone)
    body = Element(
        'body', _header(overview, site, times), _navigation(),
        Element(
            'main', _advice(overview), _posts(overview, times),
            _hour(overview, times), _relays(overview), _queues(overview),
            _failures(overview), _last_posts(overview, times),
            _counters(overview)),
        Element('footer', Element(
            'p', 'Made by “mailman mta-pool report”.  The page shows one '
            'moment and does not renew itself.')))
    page = Element('html', _head(site), body, lang='en')
    return f'<!DOCTYPE html>\n{page}'


def _head(site: str) -> Element:
    style = (files(__package__) / 'report.css').read_text('utf-8')
    digest = base64.b64encode(
        hashlib.sha256(style.encode()).digest()).decode('ascii')
    policy = (f"default-src 'none'; style-src 'sha256-{digest}'; "
              "base-uri 'none'; form-action 'none'")
    return Element(
        'head', Element('meta', charset='utf-8'),
        # What comes before the policy is not subject to it.
        Element('meta', http_equiv='Content-Security-Policy', content=policy),
        Element('meta', name='viewport',
                content='width=device-width, initial-scale=1'),
        Element('meta', name='referrer', content='no-referrer'),
        Element('meta', name='robots', content='noindex'),
        Element('title', f'Outgoing mail of {site}'),
        Element('style', style))


def _header(overview: Values, site: str, times: _Times) -> Element:
    return Element(
        'header', Element('h1', 'Outgoing mail of ', Element('bdi', site)),
        Element('p', 'Something needs the operator.' if
                overview['needs_operator'] else 'Nothing needs the operator.'),
        Element('p', 'As of ', times.now(), class_='quiet'))


def _navigation() -> Element:
    return Element(
        'nav', Element('ul', *(
            Element('li', Element('a', title, href=f'#{key}'))
            for key, title in TITLES.items())), aria_label='Sections')


def _section(key: str, *content: Child, class_: str = 'plain') -> Element:
    return Element(
        'section', Element('h2', TITLES[key], id=key), *content,
        aria_labelledby=key, class_=class_)


def _table(key: str, caption: str, columns: Sequence[_Column],
           rows: Iterable[Row]) -> Element:
    """Return a table, which can be scrolled by keyboard where it is wide.

    :param key: It makes the identifier of the caption.
    :param caption: What the table says.
    :param columns: The columns; the first one holds the heads of the rows.
    :param rows: The cells of each row.
    """
    name = f'{key}-caption'
    head = Element('tr', *(
        Element('th', column.head, scope='col', class_=column.kind)
        for column in columns))
    body = (Element('tr', *(
        Element('th', cell, scope='row', class_=column.kind) if number == 0
        else Element('td', cell, class_=column.kind)
        for number, (column, cell) in enumerate(zip(columns, row))))
        for row in rows)
    return Element(
        'div', Element(
            'table', Element(
                'caption', Element('span', caption), id=name),
            Element('thead', head), Element('tbody', *body)),
        class_='scroll', tabindex=0, role='group', aria_labelledby=name)


def _sentence(text: str) -> Element:
    return Element('p', text)


def _foreign(text: Any) -> Element:
    """Return a text from elsewhere, which may be written in any direction."""
    return Element('bdi', str(text))


def _with_code(text: str) -> Element:
    """Return a sentence with the commands and keys in it, between '`'."""
    parts = text.split('`')
    if len(parts) % 2 == 0:
        return _foreign(text)
    return Element('bdi', *(
        Element('code', part) if number % 2 else part
        for number, part in enumerate(parts)))


def _words(text: Any) -> Child:
    """Return what a server said, without addresses."""
    said = ADDRESS.sub(ADDRESS_SHOWN, str(text or ''))
    return _foreign(said) if said else NOTHING


def _number(value: Any) -> str:
    if value is None:
        return NOTHING
    if isinstance(value, float) and not math.isfinite(value):
        return NOTHING
    if isinstance(value, float) and value != int(value):
        return f'{value:,.1f}'
    return f'{int(value):,}'


def _duration(seconds: Any) -> str:
    if seconds is None or not math.isfinite(seconds):
        return NOTHING
    return duration(math.ceil(seconds))


def _outcome(name: Any) -> Element:
    return Element('span', str(name).replace('_', ' '),
                   class_=OUTCOME_CLASSES.get(name, 'bad'))


def _advice(overview: Values) -> Element:
    advice = overview['advice']
    if not advice:
        return _section(
            'advice', _sentence('There is nothing to do.'),
            class_='fine')
    return _section(
        'advice', Element('ul', *(
            Element('li', _with_code(each)) for each in advice)),
        class_='todo' if overview['needs_operator'] else 'note')


def _posts(overview: Values, times: _Times) -> Element:
    posts = overview['posts']
    if not posts:
        return _section('posts', _sentence('No post is being delivered.'))
    columns = [
        _Column('List', 'name'), _Column('Accepted', 'number'),
        _Column('Of', 'number'), _Column('Progress'),
        _Column('Per second', 'number'), _Column('Time left', 'number'),
        _Column('Began', 'mark'), _Column('Message-ID', 'identifier')]
    if any(post.get('waits_for') for post in posts):
        columns.append(_Column('Waits for', 'words'))
    return _section('posts', _table(
        'posts', 'Each post that is being delivered now.  Accepted means that '
        'a mail server has taken the responsibility.', columns,
        # The last cell is left out where there is no column for it.
        ((_foreign(post['list']), _number(post['accepted']),
          _number(post['total']),
          progress_bar(post['accepted'], post['total']),
          Element('span', 'stalled', class_='care') if post.get('stalled')
          else _number(post['rate']), _duration(post['time_left']),
          times.moment(post['started']), _foreign(post['message_id']),
          _words(post.get('waits_for'))) for post in posts)))


def _hour(overview: Values, times: _Times) -> Element:
    minutes = last_hour(overview['minutes'], overview['time'])
    total = sum(count for _, count in minutes)
    if not total:
        return _section('hour', _sentence(
            'No recipient was accepted in the last hour.'))
    rows = []
    for first in range(0, len(minutes), MINUTES_PER_ROW):
        part = minutes[first:first + MINUTES_PER_ROW]
        counts = [count for _, count in part]
        cells = [_number(count) for count in counts]
        cells += [NOTHING] * (MINUTES_PER_ROW - len(cells))
        rows.append([times.minute(part[0][0]), *cells, _number(sum(counts))])
    columns = [_Column('From', 'mark'), *(
        _Column(f'+{minute} min', 'number')
        for minute in range(MINUTES_PER_ROW)), _Column('Sum', 'number')]
    return _section('hour', Element(
        'div', minutes_chart(minutes, times.minute),
        _table('hour', f'Recipients accepted in each minute: {total:,} in all',
               columns, rows), class_='beside'))


@public
def last_hour(minutes: Iterable[Sequence[int]],
              now: float) -> List[Tuple[int, int]]:
    """Return the minutes of the last hour, with those that nobody wrote down.

    :param minutes: Pairs of a time, a multiple of 60, and of a number.
    :param now: The time, in seconds since 1970.
    :return: Such pairs, in order; the last one is the present minute.
    """
    counts = {minute: count for minute, count in minutes}
    end = int(now) // 60 * 60 + 60
    return [(minute, counts.get(minute, 0))
            for minute in range(end - 3600, end, 60)]


def _relays(overview: Values) -> Element:
    relays = overview['relays']
    if not relays:
        return _section('relays', _sentence('None was used yet.'))
    return _section('relays', _table(
        'relays', 'Each mail server that Mailman delivers to, with the '
        'connections of all runners',
        [_Column('Server', 'name'), _Column('State', 'mark'),
         _Column('Connections', 'number'),
         _Column('In flight', 'number'), _Column('Pause', 'number'),
         _Column('Why', 'words')],
        ((_foreign(relay['name']),
          Element('span', str(relay['state']), class_=STATE_CLASSES.get(
              relay['state'], 'quiet')),
          _number(relay['connections']), _number(relay.get('in_flight')),
          _duration(relay['pause']) if relay['pause'] else NOTHING,
          _words(relay['reason'])) for relay in relays)))


def _queues(overview: Values) -> Element:
    return _section('queues', _table(
        'queues', 'What waits, with what is being delivered',
        [_Column('Queue', 'mark'), _Column('Entries', 'number'),
         _Column('Recipients left', 'number'), _Column('Oldest', 'number')],
        ((name, _number(queue['entries']), _number(queue['recipients']),
          _duration(queue['oldest_age']))
         for name, queue in overview['queues'].items())))


def _failures(overview: Values) -> Element:
    """Return the causes of failures, the greatest first."""
    counts: Dict[Tuple[str, str], int] = {}
    lists: Dict[Tuple[str, str], List[str]] = {}
    for post in (*overview['posts'], *overview['last_posts']):
        for failure in post.get('failures', ()):
            cause = (failure['outcome'], failure['reply'])
            counts[cause] = counts.get(cause, 0) + failure['count']
            names = lists.setdefault(cause, [])
            if post['list'] not in names:
                names.append(post['list'])
    if not counts:
        return _section('failures', _sentence(
            'None, in the posts in progress and in the last ones.'))
    causes = sorted(counts, key=lambda cause: -counts[cause])[:CAUSE_COUNT]
    return _section('failures', _table(
        'failures', 'Of the posts in progress and of the last ones; the '
        f'{CAUSE_COUNT} greatest at most',
        [_Column('Recipients', 'number'), _Column('Outcome', 'mark'),
         _Column('Last words', 'words'), _Column('Lists', 'name')],
        ((_number(counts[cause]), _outcome(cause[0]), _words(cause[1]),
          _names(lists[cause])) for cause in causes)))


def _names(names: Sequence[str]) -> Element:
    parts: List[Child] = []
    for name in names[:LIST_COUNT]:
        parts += [', '] * bool(parts) + [_foreign(name)]
    if len(names) > LIST_COUNT:
        parts.append(f' and {len(names) - LIST_COUNT} more')
    return Element('span', *parts)


def _last_posts(overview: Values, times: _Times) -> Element:
    posts = overview['last_posts']
    if not posts:
        return _section('last', _sentence('None was delivered yet.'))
    return _section('last', _table(
        'last', 'Deliveries that ended, the latest first',
        [_Column('List', 'name'), _Column('Accepted', 'number'),
         _Column('Of', 'number'), _Column('Other recipients'),
         _Column('Ended', 'mark'), _Column('Message-ID', 'identifier')],
        ((_foreign(post['list']), _number(post['accepted']),
          _number(post['total']), _others(post['outcomes']),
          times.moment(post.get('ended')), _foreign(post['message_id']))
         for post in posts)))


def _others(outcomes: Values) -> Child:
    """Return how many recipients had which outcome but 'accepted'."""
    parts: List[Child] = []
    for name, count in outcomes.items():
        if count and name != 'accepted':
            parts += [', '] * bool(parts) + [
                f'{_number(count)} ', _outcome(name)]
    return Element('span', *parts) if parts else NOTHING


def _counters(overview: Values) -> Element:
    return _section('counters', _table(
        'counters', 'What became of recipients',
        [_Column('Outcome', 'mark'), _Column('Recipients', 'number')],
        ((_outcome(name), _number(count))
         for name, count in overview['recipients'].items())))
