# SPDX-License-Identifier: GPL-3.0-or-later

"""What the processes of a host tell each other of logins."""

import os
import stat
import errno
import asyncio
import smtplib
import unittest

from hypothesis import given, strategies as st
from mailman_mta_pool.errors import PhaseTimeout
from mailman_mta_pool.login.record import (
    KEEP_PERIOD,
    login_directory,
    LoginRecord,
    REFUSAL_PERIOD,
    TRUST_PERIOD,
)
from pathlib import Path
from tempfile import TemporaryDirectory
from tests.opening import QuickLoop
from unittest import mock


SECRET = 'hunter2'
TIMEOUT = 1
LOGIN = ('mx.example.com', '587', 'ant', SECRET)


def no_space(*ignore):
    """What a full disk does."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class RecordTestCase(unittest.TestCase):
    def setUp(self):
        directory = TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = Path(login_directory(directory.name))
        self.now = 1_800_000_000.0
        self.loop = QuickLoop()
        self.addCleanup(self.loop.close)

    def record(self, *login, directory=None):
        """What another process knows."""
        return LoginRecord(
            str(directory or self.directory), login or LOGIN, 'mx',
            'correct the password', clock=lambda: self.now,
            chance=lambda: 0.5)

    def turn(self, record, timeout=TIMEOUT):
        return self.loop.complete(record.turn(timeout))

    def refuse(self, record, code=535, text=b'5.7.8 No'):
        with self.assertLogs('mailman.smtp', 'ERROR') as logs:
            with self.turn(record) as turn:
                turn.refused(code, text)
        return logs.output

    def assertRefused(self, record):
        with self.assertRaises(smtplib.SMTPAuthenticationError) as caught:
            self.turn(record)
        self.assertIsNotNone(record.refusal())
        return caught.exception

    def files(self):
        return sorted(
            path for path in self.directory.iterdir() if path.name != 'key')


class TestRefusals(RecordTestCase):
    def test_all_know(self):
        record, other = self.record(), self.record()
        self.assertIsNone(record.refusal())
        line, = self.refuse(record)
        for word in ('mx: ', '535 5.7.8 No', 'correct the password', '15 min'):
            self.assertIn(word, line)
        for each in (record, other, self.record()):
            error = self.assertRefused(each)
            self.assertEqual(error.smtp_code, 535)
            self.assertTrue(error.smtp_error.startswith(b'5.7.8 No ('))

    def test_until_its_time_is_over(self):
        self.refuse(self.record())
        self.now += REFUSAL_PERIOD - 1
        self.assertRefused(self.record())
        self.now += 1
        self.assertIsNone(self.record().refusal())
        with self.turn(self.record()):
            pass

    def test_until_the_credentials_change(self):
        self.refuse(self.record())
        for index in range(len(LOGIN)):
            login = list(LOGIN)
            login[index] += 'x'
            with self.subTest(login=login), self.turn(self.record(*login)):
                pass
        self.assertRefused(self.record())

    def test_until_it_is_found_to_be_good(self):
        self.record().forget()
        self.assertFalse(self.directory.exists())
        self.refuse(self.record())
        knows = self.record()
        self.assertRefused(knows)
        self.record().forget()
        self.assertEqual(self.files(), [])
        self.assertIsNone(knows.refusal())
        with self.turn(knows):
            # A login that is under way is none of its business.
            self.record().forget()
            self.assertEqual(len(self.files()), 1)

    def test_a_clock_that_was_set_back(self):
        for seconds in (1, KEEP_PERIOD):
            with self.subTest(seconds=seconds):
                self.refuse(self.record())
                self.now -= seconds
                self.assertRefused(self.record())
                # It holds from now on, and not until the clock is there again.
                self.now += REFUSAL_PERIOD - 1
                self.assertRefused(self.record())
                self.now += 1
                self.assertIsNone(self.record().refusal())

    def test_told_once(self):
        # Two were tried at once, by processes that took the login for good.
        records = [self.record(), self.record()]
        with self.turn(records[0]) as turn:
            turn.accepted()
        turns = [self.turn(record) for record in records]
        with self.assertLogs('mailman.smtp', 'ERROR') as logs:
            for turn in turns:
                with turn:
                    turn.refused(535, 'No')
        self.assertEqual(len(logs.output), 1)
        self.assertRefused(self.record())

    def test_no_secret(self):
        self.refuse(self.record())
        path, = self.files()
        for file in (path, self.directory / 'key'):
            self.assertEqual(stat.S_IMODE(file.stat().st_mode), 0o600)
            self.assertNotIn(SECRET.encode(), file.read_bytes())
        self.assertEqual(stat.S_IMODE(self.directory.stat().st_mode), 0o700)
        # Nobody can compute the name without the key.
        other = self.directory.parent / 'other'
        self.refuse(self.record(directory=other))
        names = {each.name for each in other.iterdir()}
        self.assertNotIn(path.name, names)

    def test_long_and_awkward_replies(self):
        self.refuse(self.record(), 535, b'\xff\r\n' + b'x' * 9999)
        error = self.assertRefused(self.record())
        self.assertTrue(error.smtp_error.startswith(b'\\xff  xxx'))
        self.assertLess(len(error.smtp_error), 700)

    def test_the_longest_replies(self):
        for character in '\N{ANT}"\\':
            with self.subTest(character=character):
                login = LOGIN + (character,)
                with self.assertLogs('mailman.smtp', 'ERROR'):
                    with self.turn(self.record(*login)) as turn:
                        turn.refused(535, character * 9999)
                code, text = self.record(*login).refusal()
                self.assertTrue(text.decode().startswith(character * 500))

    def test_a_disk_that_becomes_full(self):
        # There is room for the outcome before the login is tried.
        record = self.record()
        with self.turn(record) as turn:
            path, = self.files()
            blocks = path.stat().st_blocks
            self.assertGreater(blocks, 0)
            for text in 'No', '\N{ANT}' * 500:
                with self.assertLogs('mailman.smtp', 'ERROR'):
                    turn.refused(535, text)
                self.assertEqual(path.stat().st_blocks, blocks)
                self.assertRefused(self.record())
                self.now += REFUSAL_PERIOD

    def test_a_state_that_cannot_be_written(self):
        record = self.record()
        with self.turn(record) as turn:
            turn.accepted()
        late = self.turn(record)
        self.refuse(self.record())
        self.now += 1
        with mock.patch('os.pwrite', no_space), (
                self.assertLogs('mailman.smtp', 'WARNING')) as logs:
            late.accepted()
        self.assertIn('No space left', logs.output[0])
        # The others know what they knew.
        self.assertRefused(self.record())
        self.assertIsNone(record.refusal())

    def test_a_state_that_is_written_by_half(self):
        record = self.record()
        with self.turn(record) as turn:
            with mock.patch('os.pwrite', lambda *ignore: 9), (
                    self.assertLogs('mailman.smtp', 'WARNING')) as logs:
                turn.refused(535, 'No')
        self.assertIn('No space left', logs.output[0])
        self.assertRefused(record)

    def test_no_room_for_a_state(self):
        record = self.record()
        with mock.patch('os.pwrite', no_space), (
                self.assertLogs('mailman.smtp', 'WARNING')) as logs:
            with self.turn(record) as turn:
                turn.refused(535, 'No')
        self.assertIn('No space left', logs.output[0])
        self.assertRefused(record)

    @given(st.binary(max_size=99) | st.sampled_from([
        b'{}', b'[]', b'{"at": 1}', b'{"at": "x", "code": 535, "text": ""}',
        b'{"at": 1e999, "code": 535, "text": ""}',
        b'{"at": 1, "code": 1, "text": ""}', b'[' * 4000]))
    def test_any_file(self, octets):
        with self.turn(self.record()):
            pass
        path, = self.files()
        path.write_bytes(octets)
        self.assertIsNone(self.record().refusal())
        with self.turn(self.record()) as turn:
            turn.accepted()


class TestTurns(RecordTestCase):
    def test_unknown_credentials_have_one(self):
        tried, told = [], []

        async def log_in(record, number):
            try:
                turn = await record.turn(TIMEOUT)
            except smtplib.SMTPAuthenticationError:
                told.append(number)
                return
            with turn:
                tried.append(number)
                await asyncio.sleep(0.5)
                turn.refused(535, 'No')

        async def main():
            records = [self.record() for _ in range(4)]
            await asyncio.gather(*(
                log_in(record, number) for number in range(8)
                for record in records))
        with self.assertLogs('mailman.smtp', 'ERROR') as logs:
            self.loop.complete(main())
        self.assertEqual(len(tried), 1)
        self.assertEqual(len(told), 31)
        self.assertEqual(len(logs.output), 1)

    def test_good_credentials_wait_for_nobody(self):
        at_once = []

        async def log_in():
            with await self.record().turn(TIMEOUT) as turn:
                at_once.append(self.loop.time())
                await asyncio.sleep(0.5)
                turn.accepted()

        async def main():
            await asyncio.gather(*(log_in() for _ in range(8)))
        self.loop.complete(main())
        # The first one alone, and all others when that one was accepted.
        first, *others = sorted(at_once)
        self.assertGreaterEqual(min(others), first + 0.5)
        self.assertLess(max(others), first + 1)

    def test_trust_ends(self):
        with self.turn(self.record()) as turn:
            turn.accepted()
        one, other = self.turn(self.record()), self.turn(self.record())
        with one, other:
            pass
        self.now += TRUST_PERIOD
        with self.turn(self.record()):
            with self.assertRaises(PhaseTimeout) as caught:
                self.turn(self.record())
            self.assertIn('1 s', str(caught.exception))

    def test_no_outcome(self):
        # A 454, a lost connection, or a process that died: the next one.
        with self.assertRaises(ZeroDivisionError):
            with self.turn(self.record()):
                raise ZeroDivisionError
        with self.turn(self.record()):
            pass
        turn = self.turn(self.record())
        # As if the process had died.
        turn.__exit__()
        with self.turn(self.record()):
            pass

    def test_the_directory_is_removed_meanwhile(self):
        record = self.record()
        self.refuse(record)
        for path in self.directory.iterdir():
            path.unlink()
        self.directory.rmdir()
        self.assertIsNone(record.refusal())
        self.refuse(record)
        self.assertRefused(self.record())

    def test_old_files_go(self):
        for login in ('a', 'b'):
            with self.turn(self.record(login)) as turn:
                turn.accepted()
        self.assertEqual(len(self.files()), 2)
        os.utime(self.directory / 'key', (0, 0))
        self.now += KEEP_PERIOD + 1
        with self.turn(self.record('c')):
            pass
        self.assertEqual(len(self.files()), 1)
        self.assertTrue((self.directory / 'key').exists())


class TestWithoutFiles(RecordTestCase):
    def setUp(self):
        super().setUp()
        # Nobody can make a directory there.
        self.directory.parent.mkdir(parents=True)
        self.directory.write_text('')

    def test_this_process_knows(self):
        record = self.record()
        with self.assertLogs('mailman.smtp', 'WARNING') as logs:
            with self.turn(record) as turn:
                with self.assertRaises(PhaseTimeout):
                    self.turn(record)
                turn.refused(535, 'No')
        warning, error = logs.output
        self.assertIn(str(self.directory), warning)
        self.assertIn('535 No', error)
        self.assertRefused(record)

    def test_back_again(self):
        record = self.record()
        with self.assertLogs('mailman.smtp', 'INFO') as logs:
            with self.turn(record):
                pass
            with self.turn(record):
                pass
            self.directory.unlink()
            with self.turn(record) as turn:
                turn.accepted()
        self.assertEqual(
            [each.partition(':')[0] for each in logs.output],
            ['WARNING', 'INFO'])
        self.assertEqual(len(self.files()), 1)
