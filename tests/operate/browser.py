# SPDX-License-Identifier: GPL-3.0-or-later
"""Headless Chromium, spoken to over a pair of pipes.

With `--remote-debugging-pipe` Chromium reads its DevTools protocol from
descriptor 3 and writes to descriptor 4, JSON texts that end with a NUL, so
that no port, no driver and no Node.js is needed.
"""

import os
import json
import fcntl
import base64
import select
import shutil
import signal
import subprocess

from contextlib import suppress
from public import public
from tempfile import mkdtemp
from time import monotonic
from unittest import SkipTest


CHROMIUM = 'chromium'
CACHE = os.environ.get('MTA_POOL_CACHE', '/var/cache/mailman-mta-pool')
AXE = os.path.join(CACHE, 'axe', 'axe.min.js')
OPTIONS = (
    '--headless', '--remote-debugging-pipe', '--no-first-run',
    # It runs as root in a container of CI, and has no GPU and little /dev/shm.
    '--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage',
    '--disable-background-networking', '--disable-component-update',
    '--hide-scrollbars', 'about:blank')
DEADLINE = 60
# What the page may report: anything in these is a complaint.
COMPLAINTS = ('Log.entryAdded', 'Runtime.consoleAPICalled',
              'Runtime.exceptionThrown', 'Page.javascriptDialogOpening')


def _read_axe():
    try:
        with open(AXE, encoding='utf-8') as fp:
            return fp.read()
    except FileNotFoundError as error:
        raise SkipTest(f'no {AXE}; see tests/operate/install.sh') from error


@public
class BrowserError(Exception):
    """Chromium did not do what it was told."""


@public
class Browser:
    """One page of a Chromium of its own; a context manager.

    :ivar complaints: What the page said on its console, policy violations
        and dialogs among it, since it was opened.
    :ivar requested: The URLs that were asked for since then.
    """

    def __init__(self):
        """Prepare it.

        :raises SkipTest: if there is no Chromium.
        """
        if shutil.which(CHROMIUM) is None:
            raise SkipTest(f'no {CHROMIUM}; see tests/operate/install.sh')
        self.complaints, self.requested = [], []
        self._number = 0
        self._events = []
        self._pending = b''

    def __enter__(self):
        self._directory = mkdtemp(prefix='mta-pool-browser-')
        commands, self._commands = os.pipe()
        self._answers, answers = os.pipe()
        # So that neither of them is 3 or 4.
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10)
                for end in (commands, answers)]

        def place():
            os.dup2(ends[0], 3)
            os.dup2(ends[1], 4)
        self._process = subprocess.Popen(
            [CHROMIUM, f'--user-data-dir={self._directory}', *OPTIONS],
            preexec_fn=place, close_fds=False, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, 'HOME': self._directory})
        for end in (commands, answers, *ends):
            os.close(end)
        self._session = None
        page = next(each for each in self.do('Target.getTargets')[
            'targetInfos'] if each['type'] == 'page')
        self._session = self.do(
            'Target.attachToTarget', targetId=page['targetId'],
            flatten=True)['sessionId']
        for domain in ('Page', 'Runtime', 'Log', 'Network'):
            self.do(f'{domain}.enable')
        return self

    def __exit__(self, *exception):
        # Its children are in its process group.
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self._commands)
        os.close(self._answers)
        shutil.rmtree(self._directory, ignore_errors=True)

    # The protocol.

    def _message(self):
        deadline = monotonic() + DEADLINE
        while b'\0' not in self._pending:
            if not select.select(
                    [self._answers], [], [], deadline - monotonic())[0]:
                raise BrowserError('no answer')
            octets = os.read(self._answers, 1 << 20)
            if octets == b'':
                raise BrowserError('Chromium has ended')
            self._pending += octets
        message, _, self._pending = self._pending.partition(b'\0')
        return json.loads(message)

    def _next_event(self):
        return self._events.pop(0) if self._events else self._message()

    def _take(self, event):
        method, values = event.get('method'), event.get('params')
        if method in COMPLAINTS:
            self.complaints.append((method, values))
        if method == 'Page.javascriptDialogOpening':
            self.do('Page.handleJavaScriptDialog', accept=False)
        elif method == 'Network.requestWillBeSent':
            self.requested.append(values['request']['url'])

    def do(self, method, **parameters):
        """Call a method of the DevTools protocol.

        :param method: Such as 'Page.navigate'.
        :param parameters: Its parameters.
        :return: Its result.
        :raises BrowserError: if it failed.
        """
        self._number += 1
        number = self._number
        call = {'id': number, 'method': method, 'params': parameters}
        if self._session is not None:
            call['sessionId'] = self._session
        octets = json.dumps(call).encode() + b'\0'
        while octets:
            octets = octets[os.write(self._commands, octets):]
        while True:
            message = self._message()
            if message.get('id') == number:
                break
            self._events.append(message)
        if 'error' in message:
            raise BrowserError(f'{method}: {message["error"]}')
        return message['result']

    # What tests do.

    def show(self, dark=False, width=1200, height=900, media='screen'):
        """Say how pages are shown from now on.

        :param dark: True for a user who prefers dark colours.
        :param width: The width of the window in pixels.
        :param height: Its height.
        :param media: 'screen' or 'print'.
        """
        self.do('Emulation.setDeviceMetricsOverride', width=width,
                height=height, deviceScaleFactor=1, mobile=False)
        self.do('Emulation.setEmulatedMedia', media=media, features=[
            {'name': 'prefers-color-scheme',
             'value': 'dark' if dark else 'light'}])

    def open(self, url):
        """Open a page, and wait until it is there.

        :param url: Its URL.
        """
        self.take_events()
        self.complaints, self.requested = [], []
        answer = self.do('Page.navigate', url=url)
        if 'errorText' in answer:
            raise BrowserError(f'{url}: {answer["errorText"]}')
        while True:
            event = self._next_event()
            self._take(event)
            if event.get('method') == 'Page.loadEventFired':
                break
        self.take_events()

    def take_events(self):
        """Take note of all that has happened up to now."""
        # Chromium answers in the order of what happened.
        self.do('Runtime.evaluate', expression='0')
        while self._events:
            self._take(self._events.pop(0))

    def evaluate(self, expression):
        """Evaluate JavaScript in the page, whatever its policy is.

        :param expression: The expression; a promise is waited for.
        :return: Its value.
        """
        answer = self.do(
            'Runtime.evaluate', expression=expression, awaitPromise=True,
            returnByValue=True)
        if 'exceptionDetails' in answer:
            raise BrowserError(str(answer['exceptionDetails']))
        return answer['result'].get('value')

    def press(self, key):
        """Press a key and let it go.

        :param key: Its name, such as 'Tab'.
        """
        code = {'Tab': 9, 'ArrowRight': 39, 'Enter': 13}[key]
        for kind in ('rawKeyDown', 'keyUp'):
            self.do('Input.dispatchKeyEvent', type=kind, key=key, code=key,
                    windowsVirtualKeyCode=code)

    def screenshot(self):
        """Return a picture of the whole page as the octets of a PNG."""
        return base64.b64decode(self.do(
            'Page.captureScreenshot', captureBeyondViewport=True)['data'])

    def violations(self):
        """Let axe-core look at the page.

        :return: A line for each violation of any of its rules.
        :raises SkipTest: if there is no axe-core.
        """
        self.evaluate(f'{_read_axe()}; 0')
        found = self.evaluate(
            'axe.run().then(results => results.violations.map(each => '
            '`${each.id}: ${each.nodes.map(node => node.html).join(" ")}`))')
        passed = self.evaluate(
            'axe.run().then(results => results.passes.length)')
        if not passed:
            raise BrowserError('axe-core has looked at nothing')
        return found
