# SPDX-License-Identifier: GPL-3.0-or-later
"""The static page, read as a browser's parser would."""

import re
import copy
import base64
import hashlib
import unittest
import unicodedata

from datetime import timedelta, timezone
from html.parser import HTMLParser
from hypothesis import example, given, settings, strategies as st
from importlib.resources import files
from mailman_mta_pool.monitoring.chart import axis_end
from mailman_mta_pool.monitoring.markup import Element, visible
from mailman_mta_pool.monitoring.report import last_hour, report_page


NOW = 1795752030.0
MINUTE = 1795752000
ZONE = timezone(timedelta(hours=1))
#: A text that is harmless wherever it stands.
PLAIN = 'plain'
ATTACK = '<script>alert(1)</script>'
VOID = {'link', 'meta'}
# WCAG 2, success criteria 1.4.3 and 1.4.11.
TEXT_CONTRAST = 4.5
GRAPHIC_CONTRAST = 3.0


def made_overview(name=PLAIN, words=PLAIN):
    """Return an overview in which everything occurs.

    :param name: What stands wherever a text of somebody else's does.
    :param words: What stands wherever a server's words do.
    """
    outcomes = {'accepted': 90, 'refused': 7, 'deferred': 3, 'in_doubt': 0,
                'shunted': 0, 'discarded': 0}
    post = {'message_id': name, 'list': name, 'total': 100, 'accepted': 90,
            'outcomes': outcomes, 'started': NOW - 75}
    return {
        'version': 1, 'time': NOW,
        'posts': [{**post, 'rate': 12.5, 'time_left': 0.8, 'slice': 'out',
                   'stalled': False}],
        'last_posts': [{**post, 'ended': NOW, 'failures': [
            {'outcome': 'refused', 'reply': words, 'count': 7}]}],
        'queues': {queue: {'entries': 1, 'recipients': 10, 'oldest_age': 75.0}
                   for queue in ('out', 'retry', 'shunt', 'bad')},
        'relays': [{'name': name, 'state': 'paused', 'reason': words,
                    'pause': 3.2, 'connections': 4, 'in_flight': 9}],
        'slices': [], 'recipients': outcomes, 'minutes': [[MINUTE, 1234]],
        # A pair of these makes an element.
        'advice': [name.replace('`', '')], 'needs_operator': True,
        }


def empty_overview():
    """Return the overview of a site that has delivered nothing."""
    return {
        'version': 1, 'time': NOW, 'posts': [], 'last_posts': [],
        'queues': {queue: {'entries': 0, 'recipients': 0, 'oldest_age': None}
                   for queue in ('out', 'retry', 'shunt', 'bad')},
        'relays': [], 'slices': [], 'minutes': [], 'advice': [],
        'recipients': {'accepted': 0}, 'needs_operator': False,
        }


class Parsed(HTMLParser):
    """A page as it was understood.

    :ivar tags: Each element's name and its attributes, in order.
    :ivar texts: The name of the element around each text, and the text.
    :ivar tables: The texts of all cells, by rows, of each table by the
        identifier of its caption.
    """

    def __init__(self, page):
        super().__init__()
        self.tags, self.texts, self.tables = [], [], {}
        self._open = []
        self._rows = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == 'caption':
            self._rows = self.tables.setdefault(dict(attrs)['id'], [])
        elif tag == 'tr':
            self._rows.append([])
        elif tag in ('th', 'td'):
            self._rows[-1].append('')
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag):
        if tag != self._open.pop():
            raise AssertionError(f'</{tag}> closes another element')

    def handle_data(self, data):
        around = self._open[-1] if self._open else ''
        self.texts.append((around, data))
        if {'th', 'td'} & set(self._open):
            self._rows[-1][-1] += data

    @property
    def shape(self):
        """The elements and the names of their attributes, without texts."""
        return [(tag, sorted(attributes)) for tag, attributes in self.tags]

    def named(self, name):
        """Return the attributes of all elements of that name."""
        return [attributes for tag, attributes in self.tags if tag == name]

    def text_in(self, name):
        """Return all texts right in elements of that name."""
        return [text for around, text in self.texts if around == name]


def page_of(values):
    """Return the page that is made of an overview."""
    return report_page(values, PLAIN, ZONE)


TEXTS = st.text(st.characters(), min_size=1)


class TestEscaping(unittest.TestCase):
    """Whatever the texts are, the elements are ours, and the texts read."""

    @given(TEXTS, TEXTS.filter(lambda text: '@' not in text), TEXTS)
    @example(ATTACK, '"\'><img src=x onerror=alert(1)>&amp;', '</title>')
    @example('</style>', ']]>', '--><!--')
    @example('\x00\x1b\r\n', '\u202ecod.exe\u2066', '\ud800')
    @settings(deadline=None)
    def test_any_text(self, name, words, site):
        page = report_page(made_overview(name, words), site, ZONE)
        page.encode()
        parsed = Parsed(page)
        self.assertEqual(parsed.shape, Parsed(page_of(made_overview())).shape)
        # The parser may hand a text over in several parts.
        shown = ''.join(parsed.text_in('bdi'))
        self.assertEqual(shown, ''.join(map(visible, (
            site, name.replace('`', ''), name, name, name, words, words,
            name, name, name))))

    @given(TEXTS)
    def test_visible(self, text):
        shown = visible(text)
        self.assertEqual(visible(shown), shown)
        for character in shown:
            self.assertNotIn(
                unicodedata.category(character), ('Cc', 'Cs', 'Zl', 'Zp'))
            self.assertNotIn(
                unicodedata.bidirectional(character),
                ('LRO', 'RLO', 'LRE', 'RLE', 'PDF', 'LRI', 'RLI', 'FSI',
                 'PDI'))

    def test_visible_keeps_what_has_a_shape(self):
        for text in ('A – “b” <c> & \\', 'Ärger', '東京', 'مرحبا', '👍🏽'):
            self.assertEqual(visible(text), text)
        self.assertEqual(visible('a\x1b[1m\x85\u202e'),
                         'a\\x1b[1m\\x85\\u202e')

    @given(TEXTS)
    @example('" onload="alert(1)')
    def test_attributes(self, text):
        parsed = Parsed(str(Element('p', aria_label=text, class_=text)))
        self.assertEqual(parsed.tags, [
            ('p', {'aria-label': visible(text), 'class': visible(text)})])

    def test_a_style_sheet_cannot_end_early(self):
        with self.assertRaises(ValueError):
            str(Element('style', '</style><script>alert(1)</script>'))

    def test_no_addresses(self):
        page = page_of(made_overview(
            words='550 5.1.1 <bob@example.net>: unknown; anne@example.com,'))
        self.assertNotIn('bob', page)
        self.assertNotIn('anne', page)
        self.assertIn('550 5.1.1 &lt;…@…&gt;: unknown; …@…,', page)


class TestPolicy(unittest.TestCase):
    """The browser is told to run nothing and to fetch nothing."""

    def setUp(self):
        self.parsed = Parsed(page_of(made_overview()))

    def test_the_hash_is_that_of_the_style_sheet(self):
        policy = next(each['content'] for each in self.parsed.named('meta')
                      if each.get('http-equiv') == 'Content-Security-Policy')
        digest = base64.b64encode(hashlib.sha256(
            ''.join(self.parsed.text_in('style')).encode()).digest()).decode()
        self.assertEqual(policy.split('; '), [
            "default-src 'none'", f"style-src 'sha256-{digest}'",
            "base-uri 'none'", "form-action 'none'"])

    def test_nothing_runs_and_nothing_is_fetched(self):
        names = {tag for tag, attributes in self.parsed.tags}
        self.assertEqual(names & {
            'script', 'iframe', 'object', 'embed', 'form', 'img', 'link',
            'base', 'foreignobject', 'use', 'image'}, set())
        for tag, attributes in self.parsed.tags:
            for key, value in attributes.items():
                self.assertFalse(key.startswith('on'), (tag, key))
                self.assertNotIn(key, ('style', 'src', 'xlink:href'))
                if key == 'href':
                    self.assertRegex(value, '^#[a-z]+$')
        style = ''.join(self.parsed.text_in('style'))
        self.assertNotRegex(style, r'url\(|@import|image-set')


class TestForEverybody(unittest.TestCase):
    """What a screen reader and a keyboard need."""

    def test_structure(self):
        for values in (made_overview(), empty_overview()):
            parsed = Parsed(page_of(values))
            self.assertEqual(parsed.named('html'), [{'lang': 'en'}])
            for landmark in ('header', 'nav', 'main', 'footer', 'h1'):
                self.assertEqual(len(parsed.named(landmark)), 1, landmark)
            identifiers = [attributes['id'] for tag, attributes in parsed.tags
                           if 'id' in attributes]
            self.assertEqual(len(identifiers), len(set(identifiers)))
            for tag, attributes in parsed.tags:
                for key in ('aria-labelledby', 'href'):
                    for name in attributes.get(key, '').split():
                        self.assertIn(name.lstrip('#'), identifiers)
            headings = [tag for tag, attributes in parsed.tags
                        if re.fullmatch('h[1-6]', tag)]
            self.assertEqual(headings, ['h1'] + ['h2'] * 8)

    def test_tables(self):
        parsed = Parsed(page_of(made_overview()))
        count = len(parsed.named('table'))
        self.assertEqual(count, 7)
        self.assertEqual(len(parsed.named('caption')), count)
        self.assertTrue(all(
            each['scope'] in ('col', 'row') for each in parsed.named('th')))
        areas = [each for each in parsed.named('div')
                 if each['class'] == 'scroll']
        self.assertEqual(len(areas), count)
        for area in areas:
            self.assertEqual((area['tabindex'], area['role']), ('0', 'group'))
            self.assertIn('aria-labelledby', area)
        for rows in parsed.tables.values():
            self.assertEqual({len(row) for row in rows}, {len(rows[0])})

    def test_charts_have_names(self):
        for chart in Parsed(page_of(made_overview())).named('svg'):
            self.assertEqual(chart['role'], 'img')
            self.assertTrue({'aria-label', 'aria-labelledby'} & set(chart))

    def test_contrast(self):
        style = (files('mailman_mta_pool.monitoring') /
                 'report.css').read_text('utf-8')
        light, dark = (dict(re.findall(r'--(\w+): (#[0-9a-f]{6});', part))
                       for part in re.findall(r':root \{(.*?)\}', style, re.S))
        self.assertEqual(set(light), set(dark))
        for colours in (light, dark):
            for ground in ('page', 'sheet'):
                for ink in ('ink', 'quiet', 'bar', 'good', 'care', 'bad'):
                    self.assertGreaterEqual(contrast(
                        colours[ink], colours[ground]), TEXT_CONTRAST, ink)
            self.assertGreaterEqual(contrast(
                colours['bar'], colours['rest']), GRAPHIC_CONTRAST)


def luminance(colour):
    """Return the relative luminance of '#rrggbb', as WCAG 2 defines it."""
    channels = [int(colour[at:at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [each / 12.92 if each <= 0.04045 else
              ((each + 0.055) / 1.055) ** 2.4 for each in channels]
    return sum(part * each for part, each in zip(
        (0.2126, 0.7152, 0.0722), linear))


def contrast(one, other):
    """Return the contrast of two colours, from 1 to 21."""
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


class TestContents(unittest.TestCase):
    """The page says what the overview says."""

    def test_tables(self):
        tables = Parsed(page_of(made_overview())).tables
        self.assertEqual(tables['posts-caption'][1], [
            PLAIN, '90', '100', '', '12.5', '1 s', '04:59:15', PLAIN])
        self.assertEqual(tables['relays-caption'][1], [
            PLAIN, 'paused', '4', '9', '4 s', PLAIN])
        self.assertEqual(tables['queues-caption'][1:], [
            [queue, '1', '10', '1 min 15 s']
            for queue in ('out', 'retry', 'shunt', 'bad')])
        self.assertEqual(tables['failures-caption'][1:], [
            ['7', 'refused', PLAIN, PLAIN]])
        self.assertEqual(tables['last-caption'][1], [
            PLAIN, '90', '100', '7 refused, 3 deferred',
            '05:00:30', PLAIN])
        self.assertEqual(tables['counters-caption'][1:3], [
            ['accepted', '90'], ['refused', '7']])

    def test_minutes(self):
        values = made_overview()
        values['minutes'] = [[MINUTE - 59 * 60, 10], [MINUTE - 60, 2000],
                             [MINUTE, 500], [MINUTE - 3600, 99]]
        page = page_of(values)
        rows = Parsed(page).tables['hour-caption']
        self.assertEqual(len(rows), 1 + 12)
        self.assertEqual(rows[1], ['04:01', '10', '0', '0', '0', '0', '10'])
        self.assertEqual(
            rows[-1], ['04:56', '0', '0', '0', '2,000', '500', '2,500'])
        self.assertIn('2,510 in all', page)

    def test_chart(self):
        values = made_overview()
        values['minutes'] = [[MINUTE - 60, 2000], [MINUTE, 500]]
        page = page_of(values)
        high, low = [
            each for each in Parsed(page).named('rect') if 'x' in each]
        self.assertEqual(
            float(high['height']), 4 * float(low['height']))
        # Both stand on the line of 0.
        self.assertEqual(float(high['y']) + float(high['height']),
                         float(low['y']) + float(low['height']))
        self.assertLess(float(high['x']), float(low['x']))
        self.assertIn('The most, 2,000, were accepted in the minute from '
                      '04:59.', page)

    def test_progress(self):
        for accepted, total, percent in (
                (0, 0, 0), (0, 10, 0), (1999, 2000, 99), (10, 10, 100),
                (11, 10, 100)):
            values = made_overview()
            values['posts'][0].update(accepted=accepted, total=total)
            self.assertIn(f'{percent} percent', [
                each.get('aria-label')
                for each in Parsed(page_of(values)).named('svg')])

    def test_causes(self):
        values = made_overview()
        post = values['last_posts'][0]
        for number in range(5):
            values['last_posts'].append(copy.deepcopy(post))
            values['last_posts'][-1]['list'] = f'list{number}'
        post['failures'].append(
            {'outcome': 'in_doubt', 'reply': 'lost', 'count': 50})
        rows = Parsed(page_of(values)).tables['failures-caption']
        self.assertEqual(rows[1:], [
            ['50', 'in doubt', 'lost', PLAIN],
            ['42', 'refused', PLAIN, f'{PLAIN}, list0, list1 and 3 more']])

    def test_times(self):
        values = made_overview()
        values['last_posts'][0]['ended'] = NOW - 86400
        page = page_of(values)
        self.assertIn('As of <time datetime="2026-11-27T05:00:30+01:00">'
                      '2026-11-27 05:00:30, UTC+0100</time>', page)
        self.assertIn('<time datetime="2026-11-26T05:00:30+01:00">'
                      '2026-11-26 05:00:30</time>', page)

    def test_stalled(self):
        values = made_overview()
        values['posts'][0].update(stalled=True, rate=0.0, time_left=None)
        row = Parsed(page_of(values)).tables['posts-caption'][1]
        self.assertEqual(row[4:6], ['stalled', '–'])

    def test_commands_in_the_advice(self):
        for advice, commands in (
                ('Run `mailman a` & `b < c`.', ['mailman a', 'b < c']),
                ('Said "a`b".', [])):
            values = made_overview()
            values['advice'] = [advice]
            parsed = Parsed(page_of(values))
            self.assertEqual(parsed.text_in('code'), commands)
            text = ''.join(text for _, text in parsed.texts)
            self.assertIn(
                advice.replace('`', '') if commands else advice, text)

    def test_nothing(self):
        page = page_of(empty_overview())
        for sentence in (
                'There is nothing to do.', 'No post is being delivered.',
                'No recipient was accepted in the last hour.',
                'None was used yet.', 'None was delivered yet.',
                'Nothing needs the operator.'):
            self.assertIn(sentence, page)
        self.assertEqual(Parsed(page).named('svg'), [])

    def test_numbers_of_a_damaged_state(self):
        values = made_overview()
        for number in (float('nan'), float('inf'), 1e300):
            values['posts'][0].update(rate=number, started=number)
            values['last_posts'][0]['ended'] = number
            values['queues']['out']['oldest_age'] = float('nan')
            page = page_of(values)
            self.assertEqual(
                Parsed(page).tables['last-caption'][1][4], '–')


class TestAxis(unittest.TestCase):
    def test_last_hour(self):
        hour = last_hour([], NOW)
        self.assertEqual(len(hour), 60)
        self.assertEqual((hour[0][0], hour[-1][0]),
                         (MINUTE - 59 * 60, MINUTE))

    @given(st.integers(1, 10**9))
    def test_end(self, peak):
        end = axis_end(peak)
        self.assertLessEqual(peak, end)
        self.assertLessEqual(end, max(2 * peak, 2))
        if end > 1:
            self.assertEqual(end % 2, 0)
            self.assertRegex(str(end), '^([1-8]0*|10)$')
