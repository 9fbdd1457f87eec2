# SPDX-License-Identifier: GPL-3.0-or-later

"""How a post is rendered once and spliced, and when it is not."""

import re
import unittest

from authheaders import sign_message
from contextlib import contextmanager, ExitStack
from email.message import Message
from mailman.app.lifecycle import create_list
from mailman.config import config
from mailman.interfaces.mailinglist import Personalization
from mailman.mta.deliver import Deliver
from mailman.testing.layers import ConfigLayer
from mailman_mta_pool.demo.population import insert_members
from mailman_mta_pool.rendering.remembered import Memory
from mailman_mta_pool.rendering.renderer import BATCH, Renderer, SAMPLE
from mailman_mta_pool.settings import DeliverySettings
from mailman_mta_pool.strategies import strategy_for
from mailman_mta_pool.strategies.coalescing import Coalescing
from mailman_mta_pool.strategies.individual import PooledIndividualDelivery
from mailman_mta_pool.wire.content import as_content
from tests.rendering.both import by_ours, by_stock, errors, Outbound, warnings
from tests.rendering.counting import statements
from tests.rendering.posts import parsed
from tests.rendering.signing import signing
from tests.rendering.templates import FOOTER, Templates
from unittest import mock


POST = b"""\
From: Anne <anne@example.com>
To: ant@example.com
Subject: A post
Message-ID: <post@example.com>
%s
Hello!
"""
ALTERNATIVE = b"""\
MIME-Version: 1.0
Content-Type: multipart/alternative; boundary="b"

--b

Hello!
--b
Content-Type: text/html

<p>Hello!
--b--
"""
UTF_8 = b"""\
Content-Type: text/plain; charset=utf-8
Content-Transfer-Encoding: quoted-printable

H=C3=A4llo
"""
AUTHENTICATED = b'Authentication-Results: lists.example.org; arc=none\n'
PERSONAL = 'You are $user_name <$user_address>, $member\n'
COMMON = 'All of you are $listname\n'
NAMES = ('Anne', 'Zoë', 'Анна', '')


class Fixture(unittest.TestCase):
    layer = ConfigLayer

    def setUp(self):
        resources = ExitStack()
        self.addCleanup(resources.close)
        resources.enter_context(signing())
        config.arc_enabled = False
        self.templates = Templates()
        resources.callback(self.templates.close)
        self.mlist = create_list('ant@example.com')
        self.mlist.personalize = Personalization.individual
        self.footer(PERSONAL)
        self.post = parsed(POST % b'')

    def footer(self, text, kind='file'):
        self.templates.set(FOOTER, self.mlist, text, kind)
        config.db.commit()

    def subscribe(self, count, names=NAMES[:1]):
        """Subscribe some members, whose names take turns."""
        members = [
            (f'm{number:04}@example.com', names[number % len(names)])
            for number in range(count)]
        insert_members(self.mlist.posting_address, members)
        config.db.commit()
        return [email for email, name in members]

    def msgdata(self, recipients, **more):
        return dict(more, recipients=recipients)

    def assert_as_stock(self, recipients, **more):
        msgdata = self.msgdata(recipients, **more)
        ours = by_ours(self.mlist, self.post, msgdata)
        self.assertIsNone(ours.error)
        self.assertEqual(
            ours.rendered,
            by_stock(self.mlist, self.post, msgdata, ours.boundary).rendered)
        return ours


class _Counting(PooledIndividualDelivery):
    """A site's own subclass, which notes for whom it is called."""

    def __init__(self, outbound):
        super().__init__(outbound, Coalescing(outbound.submit, 1))
        self.called_for = []
        self.callbacks.append(self.note)

    def note(self, mlist, msg, msgdata):
        self.called_for.append(msgdata['recipient'])

    def calls(self, recipients):
        """How often was it called for one of these, and not for a sample?"""
        return [recipient for recipient in self.called_for
                if recipient in recipients]


class _Impure(_Counting):
    """Does something else for everybody after the first."""

    def note(self, mlist, msg, msgdata):
        super().note(mlist, msg, msgdata)
        if msgdata['recipient'].startswith('m0001'):
            msg['X-Secret'] = 'content'


class _Curious(_Counting):
    """Asks for something that Mailman's own callbacks do not ask for."""

    def note(self, mlist, msg, msgdata):
        super().note(mlist, msg, msgdata)
        msg['X-Score'] = str(msgdata['member'].bounce_score)


class _Broken(_Counting):
    """Fails, whoever it is for."""

    def note(self, mlist, msg, msgdata):
        super().note(mlist, msg, msgdata)
        raise LookupError(msg['subject'])


class _Tagging(_Counting):
    """Adds a header that is personal, where no value can be spliced."""

    def note(self, mlist, msg, msgdata):
        super().note(mlist, msg, msgdata)
        msg['X-Recipient'] = msgdata['recipient'].upper()


class TestReference(Fixture):
    def deliver(self, strategy_class, recipients, **more):
        self.outbound = Outbound()
        strategy = strategy_class(self.outbound)
        with warnings() as self.warnings:
            strategy.deliver(
                self.mlist, self.post, self.msgdata(recipients, **more))
        return strategy.calls(recipients)

    def test_first_two_are_compared(self):
        recipients = self.subscribe(10)
        self.assertEqual(
            self.deliver(_Counting, recipients), recipients[:2])
        self.assertEqual(self.warnings, [])
        self.assertEqual(list(self.outbound.rendered), recipients)

    def test_first_two_of_each_kind(self):
        recipients = self.subscribe(20, NAMES)
        # The footer is in US-ASCII, in ISO-8859-1, in UTF-8, and in US-ASCII
        # without a name.
        self.mlist.preferred_language = 'fr'
        self.assertEqual(
            self.deliver(_Counting, recipients), recipients[:8])
        self.assertEqual(self.warnings, [])

    def test_strangers_and_flagged_are_kinds(self):
        recipients = self.subscribe(6) + [
            f'stranger{number}@example.com' for number in range(3)]
        self.assertEqual(
            self.deliver(_Counting, recipients, **{
                'add-dup-header': set(recipients[3:6])}),
            recipients[:2] + recipients[3:5] + recipients[6:8])

    def test_difference(self):
        recipients = self.subscribe(5)
        calls = self.deliver(_Impure, recipients)
        self.assertEqual(len(self.warnings), 1)
        rendered = self.outbound.rendered
        differing, offset = rendered[recipients[1]].octets, 0
        self.assertIn(b'X-Secret: content', differing)
        # It names the list and where, never what.
        offset = differing.index(b'X-Secret')
        for words in ('List ant.example.com:', f'first at octet {offset};'):
            self.assertIn(words, self.warnings[0])
        for words in ('Secret', 'content:', 'Anne', 'm0001'):
            self.assertNotIn(words, self.warnings[0])
        # From then on each is rendered by the reference.
        self.assertEqual(calls, recipients)
        self.assertEqual(
            ['X-Secret' in rendered[recipient].octets.decode()
             for recipient in recipients],
            [False, True, False, False, False])

    def test_curious_callback(self):
        recipients = self.subscribe(5)
        self.assertEqual(self.deliver(_Curious, recipients), recipients)
        for rendered in self.outbound.rendered.values():
            self.assertIn(b'X-Score: 0\r\n', rendered.octets)
        self.assertEqual(self.warnings, [])

    def test_personal_header(self):
        recipients = self.subscribe(5)
        self.assertEqual(self.deliver(_Tagging, recipients), recipients)
        for recipient, rendered in self.outbound.rendered.items():
            self.assertIn(
                f'X-Recipient: {recipient.upper()}'.encode(), rendered.octets)

    def test_broken_callback(self):
        # The exception is the one that stock would let out.
        recipients = self.subscribe(5)
        with self.assertRaises(LookupError) as caught:
            self.deliver(_Broken, recipients)
        self.assertEqual(caught.exception.args, ('A post',))
        self.assertEqual(self.outbound.rendered, {})

    def test_site_callback_is_called(self):
        recipients = self.subscribe(5)
        self.footer(COMMON)

        class Adding(_Counting):
            def note(self, mlist, msg, msgdata):
                super().note(mlist, msg, msgdata)
                msg['X-Site'] = 'yes'
        self.assertEqual(self.deliver(Adding, recipients), recipients[:2])
        for rendered in self.outbound.rendered.values():
            self.assertIn(b'X-Site: yes\r\n', rendered.octets)

    def test_values_that_go_by_the_reference(self):
        recipients = self.subscribe(10, ('Anne', 'a\nb', ' ', 'c\x85d', 'Zoë'))
        odd = [recipient for index, recipient in enumerate(recipients)
               if index % 5 in (1, 2, 3)]
        calls = self.deliver(_Counting, recipients)
        self.assertEqual(
            sorted(calls), sorted(odd + recipients[::5] + recipients[4::5]))

    def test_uri_that_depends_on_the_member(self):
        recipients = self.subscribe(5, NAMES)
        self.footer(COMMON, 'personal')
        self.assertEqual(self.deliver(_Counting, recipients), recipients)

    def test_uri_that_does_not(self):
        recipients = self.subscribe(5)
        self.footer(PERSONAL, 'http')
        self.assertEqual(self.deliver(_Counting, recipients), recipients[:2])

    def test_shapes_that_are_spliced(self):
        recipients = self.subscribe(5)
        for text in (b'', UTF_8, ALTERNATIVE,
                     ALTERNATIVE.replace(b'alternative', b'mixed')):
            for code, personalize in (
                    ('en', 'individual'), ('fr', 'full'), ('de', 'full')):
                with self.subTest(text=text, code=code):
                    self.mlist.preferred_language = code
                    self.mlist.personalize = Personalization[personalize]
                    self.post = parsed(POST % text)
                    self.assertEqual(
                        self.deliver(_Counting, recipients), recipients[:2])
                    self.assertEqual(self.warnings, [])


class TestFoundByExamples(Fixture):
    """What the differential test found, before it was mended."""

    def test_soft_line_break_at_the_end(self):
        # In quoted-printable the last line ends in one, or not, depending on
        # the name.
        names = [length * 'x ' for length in range(30, 50)]
        recipients = self.subscribe(len(names) + 2, ['a', 'b'] + names)
        self.mlist.preferred_language = 'fr'
        self.footer('$user_name')
        self.post = parsed(POST % b'')
        self.assert_as_stock(recipients)

    def test_lone_cr_before_from(self):
        self.post = parsed((POST % b'') + b'a\rFrom b\nFrom c\n')
        ours = self.assert_as_stock(self.subscribe(5))
        for rendered in ours.rendered.values():
            self.assertIn(b'a\r\nFrom b\r\n>From c\r\n', rendered.octets)

    def test_charset_unlike_ascii(self):
        # No mark can be seen in there.  The name is not ASCII, and so the
        # charset of the post is taken.
        recipients = self.subscribe(4, ('Zoë', 'Zoé'))
        for charset in ('utf-16', 'cp500', 'utf-7', 'utf-32-be'):
            head = f'Content-Type: text/plain; charset={charset}\n\n'.encode()
            self.post = parsed(POST % head)
            with self.subTest(charset=charset), warnings() as lines:
                self.assert_as_stock(recipients)
                self.assertEqual(lines, [])

    def test_kind_that_cannot_be_found_out(self):
        # Whatever it is, each goes by the reference.
        self.post = parsed(POST % (
            b'Content-Type: text/html; charset*="\0"\'en\'x\n\n'))
        self.mlist.personalize = Personalization.full
        recipients = self.subscribe(4, ('Zoë', 'Anne'))
        with self.assertLogs('mailman.smtp', 'DEBUG') as logged:
            self.assert_as_stock(recipients, nodecorate=True)
        self.assertIn('ant.example.com: rendered one by one',
                      '\n'.join(logged.output))

    def test_what_stock_cannot_render(self):
        self.post = parsed(POST % (
            b'MIME-Version: 1.0\n'
            b'Content-Type: multipart/mixed; boundary="b"\n\n--b--\n'))
        msgdata = self.msgdata(self.subscribe(3))
        ours, stock = errors(self.mlist, self.post, msgdata)
        self.assertIsInstance(stock, AttributeError)
        self.assertEqual(str(ours), str(stock))

    def test_multiparts_without_parts_and_senders_without_domain(self):
        # The sender comes before the message is flattened.
        empty = (b'MIME-Version: 1.0\n'
                 b'Content-Type: multipart/mixed; boundary="bound"\n\n')
        outer = (b'MIME-Version: 1.0\n'
                 b'Content-Type: multipart/mixed; boundary="b"\n\n'
                 b'--b\n%s\n--b--\n')
        forwarded = (b'MIME-Version: 1.0\nContent-Type: message/rfc822\n\n'
                     b'Subject: inside\n%s')
        broken = empty + b'--bound--'
        recipients = self.subscribe(3)
        for more in ({}, {'verp': True}, {'sender': 'local', 'verp': True}):
            msgdata = self.msgdata(recipients, **more)
            for text in (broken, outer % broken, forwarded % broken,
                         outer % (forwarded % broken)):
                with self.subTest(more=more, text=text):
                    self.post = parsed(POST.partition(b'%s')[0] + text)
                    ours, stock = errors(self.mlist, self.post, msgdata)
                    self.assertEqual(repr(ours), repr(stock))
                    if 'sender' in more:
                        self.assertIsInstance(stock, TypeError)

    def test_two_reasons_not_to_render(self):
        # The callbacks come before the sender.
        self.mlist.preferred_language = 'ja'
        self.footer('日本\n')
        self.post = parsed(POST % b'Content-Type: text/html\n')
        msgdata = self.msgdata(self.subscribe(3), verp=True, sender='local')
        ours, stock = errors(self.mlist, self.post, msgdata)
        self.assertIsInstance(stock, UnicodeEncodeError)
        self.assertEqual(str(ours), str(stock))


class TestStatements(Fixture):
    def deliver(self, recipients, **more):
        with statements() as seen:
            result = by_ours(
                self.mlist, self.post, self.msgdata(recipients, **more))
        self.assertIsNone(result.error)
        return seen

    @contextmanager
    def batches(self, recipients, **more):
        """Count what 500 recipients more cost."""
        # What is there once stays there, as the list of archivers.
        self.deliver(recipients[:1], **more)
        few = len(self.deliver(recipients[:BATCH], **more))
        # What a post costs before its second batch.  Without remembering it
        # would be 130.
        self.assertLessEqual(few, 20)
        many = len(self.deliver(recipients, **more))
        yield (many - few) / (len(recipients) / BATCH - 1)

    def test_at_most_ten_for_a_batch(self):
        recipients = self.subscribe(2 * BATCH)
        for personalize in (
                Personalization.individual, Personalization.full):
            for verp in (True, False):
                self.mlist.personalize = personalize
                with self.batches(recipients, verp=verp) as count:
                    self.assertLessEqual(count, 10)
                    self.assertGreater(count, 0)

    def test_nothing_personal(self):
        recipients = self.subscribe(2 * BATCH)
        self.footer(COMMON)
        for verp in (True, False):
            with self.batches(recipients, verp=verp) as count:
                self.assertEqual(count, 0)

    def test_no_members_are_read_for_nothing(self):
        recipients = self.subscribe(10)
        self.footer(COMMON)
        seen = self.deliver(recipients, verp=True)
        # That is for those who are compared with the reference.
        self.assertEqual(
            sum('FROM member' in statement for statement in seen), 1)

    def test_what_only_the_reference_can_do(self):
        # Still members are read in batches.
        recipients = self.subscribe(BATCH + 10)
        counts = []
        for number in (10, BATCH + 10):
            outbound = Outbound()
            with statements() as seen:
                _Curious(outbound).deliver(
                    self.mlist, self.post, self.msgdata(recipients[:number]))
            self.assertEqual(len(outbound.rendered), number)
            counts.append(sum(
                bool(re.search('FROM (member|address|user|preferences)', one))
                for one in seen))
        self.assertLessEqual(counts[1] - counts[0], 3)


class TestTransactions(Fixture):
    """Same octets, same sender: same transaction."""

    def sizes(self, recipients, coalesce=True, **more):
        result = by_ours(
            self.mlist, self.post, self.msgdata(recipients, **more), coalesce)
        self.assertIsNone(result.error)
        self.assertEqual(sum(result.transactions), len(recipients))
        self.assertEqual(
            result.rendered, by_stock(
                self.mlist, self.post, self.msgdata(recipients, **more),
                result.boundary).rendered)
        return result.transactions

    @contextmanager
    def max_recipients(self, number):
        config.push('chunks', f'[mta]\nmax_recipients: {number}\n')
        try:
            yield
        finally:
            config.pop('chunks')

    def test_common_content(self):
        recipients = self.subscribe(10)
        self.footer(COMMON)
        for size, expected in ((4, [4, 4, 2]), (0, [10]), (1, [1] * 10)):
            with self.subTest(size=size), self.max_recipients(size):
                self.assertEqual(self.sizes(recipients), expected)
                self.assertEqual(self.sizes(recipients, False), [1] * 10)

    def test_different_senders_stay_apart(self):
        recipients = self.subscribe(4)
        self.footer(COMMON)
        self.assertEqual(self.sizes(recipients, verp=True), [1] * 4)

    def test_different_contents_stay_apart(self):
        recipients = self.subscribe(6, ('Anne', 'Bart'))
        self.footer('You are $user_name\n')
        self.assertEqual(self.sizes(recipients), [3, 3])

    def test_flagged(self):
        recipients = self.subscribe(5)
        self.footer(COMMON)
        self.assertEqual(
            sorted(self.sizes(
                recipients, **{'add-dup-header': set(recipients[1:3])})),
            [2, 3])

    def test_the_sample_is_a_member_and_flagged(self):
        # What shows is found out with somebody of that address.
        recipients = [SAMPLE.recipient, *self.subscribe(4)]
        insert_members(self.mlist.posting_address, [(SAMPLE.recipient, 'A')])
        config.db.commit()
        for text in (PERSONAL, COMMON):
            self.footer(text)
            with warnings() as lines:
                self.assert_as_stock(
                    recipients, **{'add-dup-header': {SAMPLE.recipient}})
            self.assertEqual(lines, [])

    def test_many_contents(self):
        # More than may wait for another recipient.
        count = 300
        recipients = self.subscribe(count, [str(n) for n in range(count)])
        self.footer('You are $user_name\n')
        self.assertEqual(self.sizes(recipients), [1] * count)

    def test_international_recipients_stay_apart(self):
        self.footer(COMMON)
        recipients = ['jürgen@example.com', 'anne@example.com']
        self.assertEqual(self.sizes(recipients), [1, 1])

    def test_bulk(self):
        self.mlist.personalize = Personalization.none
        recipients = self.subscribe(5) + ['a@example.net', 'z@example.com']
        for size, expected in ((4, [4, 3]), (0, [7])):
            with self.subTest(size=size), self.max_recipients(size):
                self.assertEqual(self.sizes(recipients), expected)


class TestOrder(Fixture):
    MIXED = ['b@example.org', 'c@EXAMPLE.com', 'a@example.org', 'local',
             'a@example.com', 'z@example.com']
    ORDERED = ['a@example.com', 'c@EXAMPLE.com', 'z@example.com',
               'a@example.org', 'b@example.org', 'local']

    def test_by_domain_then_address(self):
        for personalize in Personalization:
            for verp in (True, False):
                for kind in (list, set):
                    with self.subTest(personalize=personalize, verp=verp):
                        self.mlist.personalize = personalize
                        ours = self.assert_as_stock(
                            kind(self.MIXED), verp=verp)
                        self.assertEqual(list(ours.rendered), self.ORDERED)

    def test_nobody(self):
        for personalize in Personalization:
            self.mlist.personalize = personalize
            outbound = Outbound()
            msgdata = self.msgdata([])
            strategy = strategy_for(
                self.mlist, self.post, msgdata, outbound, DeliverySettings())
            self.assertEqual(
                strategy.deliver(self.mlist, self.post, msgdata), {})
            self.assertEqual(outbound.rendered, {})

    def test_one(self):
        recipients = self.subscribe(1)
        for personalize in Personalization:
            self.mlist.personalize = personalize
            self.assert_as_stock(recipients)
            # The decorate handler leaves this one alone.
            self.assert_as_stock(['archive@mail-archive.dev'], verp=True)

    def test_no_domain(self):
        ours = self.assert_as_stock(['local', 'anne@example.com'], verp=True)
        self.assertEqual(
            [rendered.sender for rendered in ours.rendered.values()],
            ['ant-bounces+anne=example.com@example.com',
             'ant-bounces@example.com'])


class TestSigning(Fixture):
    def setUp(self):
        super().setUp()
        config.arc_enabled = True
        self.post = parsed(AUTHENTICATED + POST % b'')

    def signatures(self, recipients, **more):
        msgdata = self.msgdata(recipients, **more)
        with mock.patch(
                'mailman.handlers.arc_sign.sign_message',
                side_effect=sign_message) as sign:
            ours = by_ours(self.mlist, self.post, msgdata)
        for rendered in ours.rendered.values():
            self.assertIn(b'ARC-Seal: ', rendered.octets)
        self.assertEqual(
            ours.rendered,
            by_stock(self.mlist, self.post, msgdata, ours.boundary).rendered)
        return sign.call_count

    def test_common_content(self):
        self.footer(COMMON)
        self.assertEqual(self.signatures(self.subscribe(5)), 1)

    def test_personal_content(self):
        self.assertEqual(self.signatures(self.subscribe(5)), 5)

    def test_first_two_are_compared(self):
        # Before they are signed: no two signatures need be equal.
        self.footer(COMMON)
        recipients = self.subscribe(5)
        outbound = Outbound()
        with warnings() as lines:
            _Impure(outbound).deliver(
                self.mlist, self.post, self.msgdata(recipients))
        self.assertEqual(len(lines), 1)
        contents = [
            rendered.octets for rendered in outbound.rendered.values()]
        self.assertEqual(
            [b'X-Secret' in octets for octets in contents],
            [False, True, False, False, False])
        for octets in contents:
            self.assertIn(b'ARC-Seal: ', octets)

    def test_each_kind_is_signed_once(self):
        self.footer(COMMON)
        recipients = self.subscribe(5)
        flagged = {'add-dup-header': set(recipients[2:])}
        with warnings() as lines:
            self.assertEqual(self.signatures(recipients, **flagged), 2)
        self.assertEqual(lines, [])


class TestMemory(Fixture):
    def contents(self, recipients):
        renderer = Renderer(
            Deliver().callbacks, self.mlist, self.post,
            self.msgdata(recipients), Memory(self.mlist),
            lambda recipient: self.mlist.bounces_address)
        return [content for _, content in renderer.contents(recipients)]

    def test_shared_segments(self):
        body = b'A long line of text that everybody gets alike.\n' * 2000
        self.post = parsed(POST % (b'\n' + body))
        contents = self.contents(self.subscribe(20))
        for pieces in ('pieces', 'stuffed'):
            own = {}
            for content in contents[2:]:
                for piece in getattr(content, pieces):
                    own[id(piece)] = len(piece)
            total = sum(
                len(piece) for content in contents[2:]
                for piece in getattr(content, pieces))
            self.assertGreater(total, 18 * len(body))
            self.assertLess(sum(own.values()), 1.1 * len(body))

    def test_common_content_is_one_object(self):
        self.footer(COMMON)
        contents = self.contents(self.subscribe(5))
        self.assertEqual(len({id(content) for content in contents}), 1)

    def test_post_is_not_changed(self):
        before = as_content(self.post).octets
        self.contents(self.subscribe(3))
        self.assertIsInstance(self.post, Message)
        self.assertEqual(as_content(self.post).octets, before)
