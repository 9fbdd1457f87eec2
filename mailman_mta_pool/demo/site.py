# SPDX-License-Identifier: GPL-3.0-or-later

"""A Mailman site in a temporary directory, with real runner processes."""

from __future__ import annotations

import time
import atexit
import pickle
import shutil
import subprocess

from contextlib import contextmanager
from mailman_mta_pool.demo import inside, population
from mailman_mta_pool.demo.process import Child, signals_held
from mailman_mta_pool.demo.queues import Queue
from pathlib import Path
from public import public
from tempfile import mkdtemp


# As Mailman's own script does; it may not be on anybody's path.
RUNNER = 'from mailman.bin.runner import main; main()'
# How often the queues are looked at, in seconds.
POLL_S = 0.02
CONFIGURATION = """\
[mailman]
layout: throwaway

[paths.throwaway]
var_dir: {var}

[mta]
{mta}

{extra}
"""


@public
class SiteError(Exception):
    """Something at the site went wrong; the text has its last words."""


@public
class ThrowawaySite:
    """A site with SQLite, no archivers, and otherwise Mailman's defaults.

    As a context manager it is removed at the end, its runners killed.  This
    process's own Mailman, if it has one, is left alone.

    :param mta: Keys and values for the `[mta]` section.
    :type mta: dictionary
    :param extra: Further sections, as the text of a configuration file.
    :type extra: str
    :param keep: Leave the directory behind.
    :param template: Another site, at rest, whose lists and members this one
        starts with.
    :type template: `ThrowawaySite`
    """

    def __init__(self, mta=None, extra='', keep=False, template=None):
        self._keep = keep
        self._runners = []
        with signals_held():
            self.directory = Path(mkdtemp(prefix='mta-pool-site-'))
            atexit.register(self.close)
        self.var = self.directory / 'var'
        self.configuration = self.directory / 'mailman.cfg'
        if template is not None:
            shutil.copytree(template.var / 'data', self.var / 'data')
        self.configure(mta, extra)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    def close(self):
        """Kill what runs, remove the directory."""
        self.end_runners()
        if not self._keep:
            shutil.rmtree(self.directory, ignore_errors=True)
        atexit.unregister(self.close)

    def end_runners(self):
        """Kill all runners that were started here."""
        for runner in self._runners:
            runner.kill()

    def configure(self, mta=None, extra=''):
        """Write another configuration, for the processes that start later.

        :param mta: Keys and values for the `[mta]` section.
        :param extra: Further sections as text.
        """
        settings = {
            'incoming': 'mailman.mta.null.NullMTA',
            'outgoing': 'mailman.mta.deliver.deliver',
            'smtp_host': '127.0.0.1',
            **(mta or {})}
        lines = [f'{key}: {value}' for key, value in settings.items()]
        self.configuration.write_text(CONFIGURATION.format(
            var=self.var, mta='\n'.join(lines), extra=extra))

    def call(self, function, *arguments, **keywords):
        """Call a function in a process where this site's Mailman lives.

        :param function: One that can be imported by its name.
        :return: What it returned.
        :raises SiteError: when it raised anything.
        """
        job = pickle.dumps((function, arguments, keywords))
        child = Child('-m', inside.__name__, str(self.configuration),
                      stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                      stderr=subprocess.PIPE, cwd=self.directory)
        answer, complaint = child.communicate(job)
        if child.status != 0:
            raise SiteError(complaint.decode(errors='replace').strip())
        return pickle.loads(answer)

    def create_list(self, fqdn_listname, members=(), **attributes):
        """Create a mailing list.

        :param fqdn_listname: Its posting address.
        :param members: How many, or their addresses and names.
        :type members: int or iterable of 2-tuples of str
        :param attributes: Set on the list.
        :return: The addresses of its members, in the form that posts go to.
        :rtype: list of str
        """
        if isinstance(members, int):
            members = population.people(members)
        members = list(members)
        self.call(
            population.create_list, fqdn_listname, members, **attributes)
        return [email.lower() for email, display_name in members]

    def enqueue(self, content, fqdn_listname, **keywords):
        """Put a post in the `out` queue or another.

        :param content: The message as bytes.
        :param fqdn_listname: The list's posting address.
        :param keywords: See `population.enqueue`.
        :return: The path of the queue file.
        """
        filebase = self.call(
            population.enqueue, content, fqdn_listname, **keywords)
        queue = keywords.get('queue', 'out')
        return self.var / 'queue' / queue / f'{filebase}.pck'

    def queue(self, name):
        """The queue of that name.

        :rtype: `Queue`
        """
        return Queue(self.var / 'queue' / name)

    def log(self, name):
        """A log file's text, such as smtp.log or mailman.log."""
        path = self.var / 'logs' / name
        if not path.exists():
            return ''
        return path.read_text(errors='replace')

    def start_runner(self, name='out'):
        """Start a real runner process.

        :return: The process, which the caller may stop, kill or leave.
        :rtype: `Child`
        """
        with signals_held(), open(self._output(name), 'ab') as output:
            runner = Child(
                '-c', RUNNER, '-C', str(self.configuration), '-r', name,
                stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                cwd=self.directory)
            self._runners.append(runner)
        return runner

    def _output(self, name):
        return self.directory / f'runner-{name}.txt'

    @contextmanager
    def runner(self, name='out'):
        """A runner for the time of the block: stopped, or killed on errors."""
        runner = self.start_runner(name)
        try:
            yield runner
            runner.stop()
        finally:
            runner.kill()

    def is_empty(self, *queues):
        """True when none of the queues holds anything.

        An entry moves to the next queue before it leaves the last, so it is
        seen somewhere unless it moves behind our back; hence the two looks.
        """
        return not any(self.queue(name).files for name in queues * 2)

    def is_done(self, *queues):
        """True when these queues are empty and all runners at rest.

        Mailman shunts a post that it has delivered and removed from its queue
        if SIGTERM comes in the instant after, so an empty queue alone is no
        time to stop a runner.
        """
        return (self.is_empty(*queues)
                and all(runner.idle for runner in self._runners))

    def wait_until_empty(self, *queues, timeout=60):
        """Wait until all these queues, by default `out`, are done with.

        :param timeout: Seconds.
        :raises SiteError: when they are not by then, or no runner is left
            that could empty them.
        """
        queues = queues or ('out',)
        deadline = time.monotonic() + timeout
        while not self.is_done(*queues):
            self.check_runners()
            if time.monotonic() > deadline:
                left = [self.queue(name) for name in queues]
                raise SiteError(f'not empty after {timeout} s: {left}')
            time.sleep(POLL_S)

    def check_runners(self):
        """See to it that a runner is at work.

        :raises SiteError: when none is, with what the last ones said.
        """
        if not any(runner.running for runner in self._runners):
            raise SiteError(
                f'no runner is running: {self._runners} {self.said()}')

    def said(self, name='*'):
        """What the runners of that name have printed, the last ones last.

        It is little: what they have to say goes into the logs.
        """
        return ''.join(
            path.read_text(errors='replace')
            for path in sorted(self.directory.glob(f'runner-{name}.txt')))
