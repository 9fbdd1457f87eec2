# SPDX-License-Identifier: GPL-3.0-or-later
"""Looking for secrets where none may be, in whatever shape.

A watch notes each secret that a process makes, what it logs at the level
debug, and the texts of its exceptions.  None of this changes what the process
does.  `Needles` finds the secrets in these texts and in files.
"""

import os
import re
import sys
import html
import json
import base64
import logging
import smtplib
import tempfile

from functools import wraps
from itertools import chain
from mailman_mta_pool import secret as product
from mailman_mta_pool.errors import BadChallenge, ProtocolError
from mailman_mta_pool.secret import Secret
from pathlib import Path
from public import public
from typing import NamedTuple
from urllib.parse import quote, quote_plus


TESTS = str(Path(__file__).resolve().parent) + os.sep
FUZZ = TESTS + 'fuzz' + os.sep
PACKAGE = str(Path(product.__file__).resolve().parent) + os.sep
#: What is shorter, or has fewer different characters, is found by accident.
#: Both in characters.
MIN_LENGTH = 6
MIN_DIFFERENT = 4
#: Our own loggers; their debug lines are noted whatever the level is.
LOGGERS = 'mailman.'
SECRET, RECORD, EXCEPTION = 'secret', 'record', 'exception'
#: They quote a server, which may echo a secret.  `translated` hides it.
QUOTING = (ProtocolError, BadChallenge, smtplib.SMTPAuthenticationError)
# What says a secret in a configuration file, even if that cannot be read.
SECRET_LINES = re.compile(
    r'^[ \t]*(?:smtp_pass|password)(?:[ \t]*[:=]|[ \t])[ \t]*(\S.*?)[ \t]*$|'
    r'://[^/\s]*:([^/\s]+)@', re.MULTILINE)
#: A process whose working directory has such a directory keeps notes there.
NOTES = 'watched'
public(MIN_LENGTH=MIN_LENGTH, NOTES=NOTES,
       SECRET=SECRET, RECORD=RECORD, EXCEPTION=EXCEPTION)


@public
class Leak(NamedTuple):
    """A secret that was found.

    :ivar place: Where it was found.
    :ivar secret: Where the secret comes from; its text is not told.
    :ivar form: The shape that it had.
    """

    place: str
    secret: str
    form: str

    def __str__(self):
        return f'{self.place}: the secret of {self.secret}, {self.form}'


@public
def is_findable(text):
    """True if a secret is not found by accident."""
    return len(text) >= MIN_LENGTH and len(set(text)) >= MIN_DIFFERENT


def _base64(octets):
    """What is the same wherever the octets stand within others."""
    for before in range(3):
        encoded = base64.b64encode(bytes(before) + octets).decode()
        after = (before + len(octets)) % 3
        if after:
            # The last character holds bits of what follows.
            encoded = encoded.rstrip('=')[:-1]
        # So does the first one that holds bits of the octets.
        yield encoded[before + 1 if before else 0:]


@public
def forms(text):
    """Yield the name and the text of each shape that a secret may have.

    :param text: The secret.
    """
    octets = text.encode('utf-8', 'surrogatepass')
    yield 'as it is', text
    yield 'escaped', repr(text)[1:-1]
    yield 'escaped', ascii(text)[1:-1]
    yield 'escaped', repr(octets)[2:-1]
    yield 'escaped', octets.decode('ascii', 'backslashreplace')
    yield 'in JSON', json.dumps(text)[1:-1]
    yield 'in HTML', html.escape(text)
    yield 'in hex', octets.hex()
    for encode in quote, quote_plus:
        yield 'percent-encoded', encode(octets)
        yield 'percent-encoded', encode(octets, safe='')
    for encoded in _base64(octets):
        yield 'in base64', encoded
        yield 'in base64', encoded.translate(str.maketrans('+/', '-_'))


@public
def secrets_in(text):
    """Return what a configuration file says to log in with.

    :param text: That of the file, with whatever mistakes.
    """
    return {one or other for one, other in SECRET_LINES.findall(text)}


@public
class Needles:
    """The secrets to look for; upper and lower case are the same."""

    def __init__(self, secrets):
        """Prepare all their shapes.

        :param secrets: Where each comes from, by its text.
        """
        self._by_start = {}
        for text, origin in secrets.items():
            if not is_findable(text):
                continue
            for form, shape in forms(text):
                shape = shape.casefold()
                self._by_start.setdefault(shape[:MIN_LENGTH], {}).setdefault(
                    shape, (origin, form))

    def __bool__(self):
        return bool(self._by_start)

    def find(self, text, place):
        """Yield what is found in a text, once for each shape.

        :param text: The text; octets that are no UTF-8 are escaped.
        :param place: Where it stands.
        """
        if isinstance(text, bytes):
            text = text.decode('utf-8', 'backslashreplace')
        text = text.casefold()
        starts = {text[start:start + MIN_LENGTH]
                  for start in range(len(text) - MIN_LENGTH + 1)}
        for start in self._by_start.keys() & starts:
            for shape, (origin, form) in self._by_start[start].items():
                at = text.find(shape)
                if at >= 0:
                    line = text.count('\n', 0, at) + 1
                    yield Leak(f'{place}:{line}', origin, form)

    def in_files(self, *paths):
        """Yield what is found in files, and in those of directories."""
        for path in paths:
            within = sorted(path.rglob('*')) if path.is_dir() else [path]
            for each in within:
                if each.is_file():
                    yield from self.find(str(each), f'the name of {each}')
                    yield from self.find(each.read_bytes(), str(each))


@public
class Notes:
    """What a watch has noted, in memory.

    :ivar texts: For each kind, where each text was first met, by the text.
    :ivar context: What is going on, for places.
    """

    def __init__(self):
        self.texts = {kind: {} for kind in (SECRET, RECORD, EXCEPTION)}
        self.context = ''

    def __call__(self, kind, place, text):
        """Note a text.

        :return: True if it was not known.
        """
        if text in self.texts[kind]:
            return False
        if self.context:
            place = f'{place}, in {self.context}'
        self.texts[kind][text] = place
        return True

    def needles(self, more=()):
        """Return `Needles` for all secrets.

        :param more: Other secrets, in the form of `Needles`.
        """
        return Needles({**self.texts[SECRET], **dict(more)})

    def leaks(self, kind, needles):
        """Return what is found in the texts of a kind, with their places."""
        # Another thread may still note something.
        texts = list(self.texts[kind].items())
        return [leak for text, place in texts
                for leak in needles.find(text, place)]


@public
class WrittenNotes:
    """What a watch in a process of its own has noted, as a file."""

    def __init__(self, directory):
        """Begin a file.

        :param directory: Where it is to be.
        """
        self._known = Notes()
        # It stays open: a test may take away the right to open another.
        # Several processes may inherit it, and each line is one `write`.
        self._file, _ = tempfile.mkstemp(dir=directory)

    def __call__(self, kind, place, text):
        """See `Notes`."""
        if not self._known(kind, place, text):
            return False
        line = json.dumps([kind, place, text]) + '\n'
        os.write(self._file, line.encode('ascii'))
        return True


@public
def notes_in(directory):
    """Return the `Notes` that processes have written.

    :param directory: That of `WrittenNotes`.
    """
    notes = Notes()
    for path in sorted(directory.iterdir()):
        for line in path.read_text('ascii').splitlines():
            try:
                note = json.loads(line)
            except ValueError:
                # The process was killed in the midst of the last line.
                continue
            notes(*note)
    return notes


def _told_by(error):
    """All that an exception says, and those that are printed with it."""
    texts, seen = [], []
    while error is not None and error not in seen:
        seen.append(error)
        texts.extend([repr(error), str(error),
                      *getattr(error, '__notes__', ())])
        error = error.__cause__ or (
            None if error.__suppress_context__ else error.__context__)
    return '\n'.join(texts)


def _place(code, line):
    path = code.co_filename
    for root in PACKAGE, TESTS:
        if path.startswith(root):
            path = path[len(os.path.dirname(root.rstrip(os.sep))) + 1:]
    return f'{path}:{line}'


def _is_fuzzed(frame):
    """True if a secret is a part of some octets to be fuzzed with.

    What fuzzes with it looks for it in the errors by itself.
    """
    while frame is not None:
        if frame.f_code.co_filename.startswith(FUZZ):
            return True
        frame = frame.f_back
    return False


def _maker(frame):
    """Where in a test a secret comes from, or who has made it."""
    each = frame
    while each is not None:
        if each.f_code.co_filename.startswith(TESTS):
            frame = each
            break
        each = each.f_back
    return _place(frame.f_code, frame.f_lineno)


def _is_drawn():
    """True if a secret may have been made up by Hypothesis.

    Such a text is anybody's, such as a word of the source, and the test that
    draws it looks for it, too.
    """
    hypothesis = sys.modules.get('hypothesis')
    return hypothesis is not None and hypothesis.currently_in_test_context()


@public
class Watch:
    """Notes the secrets, the log records and the exceptions of a process.

    Of the exceptions, these are each that is logged, each that is made of one
    of our own classes that are imported when it starts, and from Python 3.12
    on each that leaves the package; see `QUOTING`, too.
    """

    def __init__(self, notes):
        """Prepare; nothing is watched yet.

        :param notes: `Notes`, or what else is called so.
        """
        self._notes = notes
        self._undo = []

    def start(self):
        """Begin to watch."""
        self._replace(Secret, '__init__', self._noting_secrets)
        self._replace(logging.Logger, 'isEnabledFor', self._enabling)
        self._replace(logging.Logger, 'handle', self._noting_records)
        for kind in _exceptions():
            self._replace(kind, '__init__', self._noting_exceptions)
        if hasattr(sys, 'monitoring'):
            self._monitor(sys.monitoring)

    def stop(self):
        """End it; all is as before."""
        while self._undo:
            self._undo.pop()()

    def _replace(self, kind, name, wrapping):
        original = getattr(kind, name)
        is_own = name in vars(kind)
        setattr(kind, name, wraps(original)(wrapping(original)))
        self._undo.append(lambda: setattr(kind, name, original) if is_own
                          else delattr(kind, name))

    def _noting_secrets(self, original):
        def init(secret, *args, **kws):
            original(secret, *args, **kws)
            if secret and not (
                    _is_drawn() or _is_fuzzed(sys._getframe(1))):
                self._notes(
                    SECRET, _maker(sys._getframe(1)), secret.reveal())
        return init

    def _enabling(self, original):
        def is_enabled_for(logger, level):
            return (original(logger, level) or
                    logger.name.startswith(LOGGERS))
        self._is_enabled_for = original
        return is_enabled_for

    def _noting_records(self, original):
        formatter = logging.Formatter()

        def handle(logger, record):
            self._notes(RECORD, f'{logger.name}: {record.pathname}:'
                        f'{record.lineno}', formatter.format(record))
            # Whatever else happens is as if nobody had asked for more.
            if self._is_enabled_for(logger, record.levelno):
                original(logger, record)
        return handle

    def _noting_exceptions(self, original):
        def init(error, *args, **kws):
            original(error, *args, **kws)
            # Not by halves, when a class calls the one that it extends.
            if type(error).__init__ is init:
                self._note_exception(error, sys._getframe(1))
        return init

    def _note_exception(self, error, frame):
        if type(error) in QUOTING:
            return
        place = _place(frame.f_code, frame.f_lineno)
        self._notes(
            EXCEPTION, f'{type(error).__name__} of {place}', _told_by(error))

    def _monitor(self, monitoring):
        tool = monitoring.DEBUGGER_ID
        monitoring.use_tool_id(tool, __name__)

        def note(code, offset, error):
            if code.co_filename.startswith(PACKAGE):
                frame = sys._getframe(1)
                if not _is_called_by_us(frame):
                    self._note_exception(error, frame)

        def undo():
            monitoring.set_events(tool, monitoring.events.NO_EVENTS)
            monitoring.register_callback(
                tool, monitoring.events.PY_UNWIND, None)
            monitoring.free_tool_id(tool)
        monitoring.register_callback(tool, monitoring.events.PY_UNWIND, note)
        monitoring.set_events(tool, monitoring.events.PY_UNWIND)
        self._undo.append(undo)


def _is_called_by_us(frame):
    """True if another function of ours is yet to see what this one raises."""
    while frame.f_back is not None:
        frame = frame.f_back
        if frame.f_code.co_filename.startswith(PACKAGE):
            return True
    return False


def _exceptions():
    """Our own classes of exceptions whose texts may be shown."""
    found = [Exception]
    for kind in found:
        found.extend(each for each in kind.__subclasses__()
                     if each not in found)
    return [kind for kind in found
            if kind.__module__.startswith('mailman_mta_pool.') and
            kind not in QUOTING]


@public
def watch_here():
    """Watch this process, if its working directory is one of a watched site.

    See `NOTES`.
    """
    directory = Path.cwd() / NOTES
    if directory.is_dir():
        Watch(WrittenNotes(directory)).start()


@public
def watch_children():
    """Let the Python processes that start from now on call `watch_here`."""
    own = os.path.join(TESTS, 'watched')
    path = os.environ.get('PYTHONPATH', '').split(os.pathsep)
    if own not in path:
        os.environ['PYTHONPATH'] = os.pathsep.join(
            chain([own], filter(None, path)))
