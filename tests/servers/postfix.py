# SPDX-License-Identifier: GPL-3.0-or-later

"""A real Postfix with a configuration and a queue of its own."""

import os
import pwd
import stat
import shutil
import signal
import tempfile
import contextlib
import subprocess

from public import public
from tests.servers.loopback import (
    end_group,
    free_port,
    HOST,
    is_accepting,
    is_listening,
    make_passable,
    processes_of_group,
    wait_until,
)
from tests.servers.maillog import MailLog


# Only what a delivery from SMTP to SMTP or to nowhere needs, and nothing in a
# chroot, where neither the test's directory nor its certificates exist.
MASTER = """\
{host}:{port} inet n - n - - smtpd
pickup    unix  n - n 60    1 pickup
cleanup   unix  n - n -     0 cleanup
qmgr      unix  n - n 300   1 qmgr
tlsmgr    unix  - - n 1000? 1 tlsmgr
rewrite   unix  - - n -     - trivial-rewrite
bounce    unix  - - n -     0 bounce
defer     unix  - - n -     0 bounce
trace     unix  - - n -     0 bounce
verify    unix  - - n -     1 verify
flush     unix  n - n 1000? 0 flush
proxymap  unix  - - n -     - proxymap
smtp      unix  - - n -     - smtp
lmtp      unix  - - n -     - lmtp
showq     unix  n - n -     - showq
error     unix  - - n -     - error
retry     unix  - - n -     - error
discard   unix  - - n -     - discard
anvil     unix  - - n -     1 anvil
scache    unix  - - n -     1 scache
postlog   unix-dgram n - n - 1 postlogd
"""
QUEUES = ('incoming', 'active', 'deferred', 'maildrop', 'hold')


def _defaults(directory):
    return {
        'compatibility_level': '3.6',
        'queue_directory': os.path.join(directory, 'queue'),
        'data_directory': os.path.join(directory, 'data'),
        'maillog_file': os.path.join(directory, 'log', 'mail.log'),
        'maillog_file_prefixes': os.path.join(directory, 'log'),
        'myhostname': 'postfix.example.net',
        'mydestination': '',
        'mynetworks': '127.0.0.0/8',
        'inet_interfaces': 'loopback-only',
        'inet_protocols': 'ipv4',
        'disable_dns_lookups': 'yes',
        'default_transport': 'discard:',
        'relay_transport': 'discard:',
        'smtpd_peername_lookup': 'no',
        'alias_maps': '',
        'alias_database': '',
        'local_recipient_maps': '',
        'notify_classes': '',
        'smtpd_relay_restrictions': 'permit_mynetworks, reject',
        # What is measured and compared is ours: Postfix neither slows down
        # nor refuses a client that is in a hurry, and changes no content.
        'in_flow_delay': '0',
        # Short ones come again: of 5,000 messages, two may have the same.
        'enable_long_queue_ids': 'yes',
        'smtpd_client_connection_count_limit': '0',
        'smtpd_client_connection_rate_limit': '0',
        'smtpd_client_message_rate_limit': '0',
        'smtpd_client_recipient_rate_limit': '0',
        'local_header_rewrite_clients': '',
        'message_drop_headers': '',
        'smtp_line_length_limit': '0',
        'message_size_limit': '104857600',
        }


@public
def available():
    """Tell why Postfix cannot be run here.

    :return: The empty string if it can, else the reason.
    """
    if os.geteuid() != 0:
        return 'Postfix needs root'
    missing = [name for name in ('postfix', 'postlog')
               if shutil.which(name) is None]
    return 'not installed: {}'.format(', '.join(missing)) if missing else ''


def _name_of(pid):
    """Return the name of a process; '' if it has ended."""
    with contextlib.suppress(OSError):
        with open(f'/proc/{pid}/comm') as fp:
            return fp.read().strip()
    return ''


@public
class Postfix:
    """A Postfix that accepts everything from the loopback interface.

    Messages are discarded, with a line in the log for each recipient, or
    handed on to another server.

    :param relay_to: The (host, port) of the server to hand everything on to;
        None discards.
    :param parameters: Further parameters of main.cf, which override those
        set here.
    """

    def __init__(self, relay_to=None, **parameters):
        self._parameters = parameters
        if relay_to is not None:
            self._parameters.setdefault(
                'default_transport', 'smtp:[{}]:{}'.format(*relay_to))
        self.host = HOST
        self.port = None
        self.directory = None
        self._master = None
        self._former = set()

    def __enter__(self):
        self.directory = tempfile.mkdtemp(prefix='postfix-')
        make_passable(self.directory)
        try:
            self._configure()
            self._postfix('start')
            with open(self._path('queue', 'pid', 'master.pid')) as fp:
                self._master = int(fp.read())
            wait_until(self.is_ready, 'Postfix')
        except BaseException:
            self.__exit__()
            raise
        return self

    def is_ready(self):
        """Tell whether the server greets, if it does so in clear."""
        # In TLS from the start it greets nobody in clear.
        if self._parameters.get('smtpd_tls_wrappermode') == 'yes':
            return is_listening(self.port)
        return is_accepting(self.port)

    def __exit__(self, *ignore):
        if self._master is not None:
            # This is what `postfix stop` does, without its pause of a second.
            end_group(self._master)
        shutil.rmtree(self.directory, ignore_errors=True)

    def _path(self, *names):
        return os.path.join(self.directory, *names)

    def _configure(self):
        user = pwd.getpwnam('postfix')
        for name in ('etc', 'queue', 'data', 'log'):
            os.mkdir(self._path(name))
            make_passable(self._path(name))
        os.chown(self._path('data'), user.pw_uid, user.pw_gid)
        self.port = free_port()
        parameters = _defaults(self.directory)
        parameters.update(self._parameters)
        self._write('main.cf', ''.join(
            '{} = {}\n'.format(key, value)
            for key, value in sorted(parameters.items())))
        self._write('master.cf', MASTER.format(host=HOST, port=self.port))

    def _write(self, name, text):
        path = self._path('etc', name)
        with open(path, 'w') as fp:
            fp.write(text)
        # Mailman's test layers have a umask that keeps others out.
        os.chmod(path, 0o644)

    def _postfix(self, command, check=True):
        return subprocess.run(
            ('postfix', '-c', self._path('etc'), command), check=check,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            umask=0o022).returncode == 0

    def stop(self):
        """Stop the server as an administrator does, and keep its queue.

        Returns when it has stopped; `start()` starts it again.
        """
        self._postfix('stop')
        wait_until(lambda: not self.pids(), 'the end of Postfix')

    def kill(self):
        """Kill all its processes in the midst of whatever they do.

        What they have said by then is in the log: the tests count by it.
        """
        # Nobody starts new ones.
        os.kill(self._master, signal.SIGSTOP)
        loggers = {pid for pid in self.pids() if _name_of(pid) == 'postlogd'}
        others = self.pids() - loggers - {self._master}
        for pid in others:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not others & self.pids(), 'the end of Postfix')
        if loggers:
            self._wait_for_log()
        os.killpg(self._master, signal.SIGKILL)
        wait_until(lambda: not self.pids(), 'the end of Postfix')
        # The kernel has its locks a little longer.
        wait_until(lambda: not self._is_running(), 'the end of Postfix')

    def _is_running(self):
        return self._postfix('status', check=False)

    def start(self):
        """Start the server again, on the same port, after its end."""
        # Somebody who looks for the server may have its port for a moment: a
        # connection from a port of this host to that port itself.
        wait_until(lambda: self._postfix('start', check=False),
                   'the start of Postfix')
        with open(self._path('queue', 'pid', 'master.pid')) as fp:
            self._master = int(fp.read())
        wait_until(lambda: is_accepting(self.port), 'Postfix')

    def change(self, **parameters):
        """Change parameters of main.cf, as an administrator does.

        A process that waits for a client serves one more with the former
        ones; see `wait_until_changed()`.
        """
        self._former = self._smtpds()
        subprocess.run(
            ('postconf', '-c', self._path('etc'), *(
                '{} = {}'.format(*item) for item in parameters.items())),
            check=True)
        self._postfix('reload')

    def flush(self):
        """Try to deliver at once whatever is in the queue."""
        self._postfix('flush')

    def wait_until_changed(self):
        """Wait until nobody knows what the parameters were before.

        There must be no client.
        """
        # Whoever is asked once more is gone after it.
        wait_until(lambda: is_accepting(self.port) and
                   not self._smtpds() & self._former, 'the change')

    def _smtpds(self):
        found = set()
        for pid in self.pids():
            # It may end meanwhile.
            with contextlib.suppress(OSError):
                with open('/proc/{}/comm'.format(pid)) as fp:
                    if fp.read().strip() == 'smtpd':
                        found.add(pid)
        return found

    def pids(self):
        """Return the set of ids of this server's living processes."""
        return processes_of_group(self._master)

    def is_listening(self):
        """Tell whether the server accepts connections."""
        return is_listening(self.port)

    def queued(self):
        """Return how many messages the queue holds."""
        return sum(self._is_message(os.path.join(directory, name))
                   for queue in QUEUES
                   for directory, _, names in os.walk(
                       self._path('queue', queue))
                   for name in names)

    def _is_message(self, path):
        # Only what is complete may be executed; what is left of a process
        # that was killed may not.
        try:
            return bool(os.stat(path).st_mode & stat.S_IXUSR)
        except FileNotFoundError:
            return False

    def wait_until_delivered(self, deadline=60):
        """Wait until the queue is empty and all of that is in the log.

        :param deadline: The longest wait, in seconds.
        :return: The log.
        :rtype: `MailLog`
        :raises TimeoutError: when the deadline passes.
        """
        wait_until(lambda: self.queued() == 0, 'an empty queue', deadline)
        self._wait_for_log()
        return self.log()

    def _wait_for_log(self):
        # It is written by a process of its own from one socket, so that what
        # stands there after a line of ours is complete.
        count = self.log().text.count('barrier')
        subprocess.run(('postlog', '-c', self._path('etc'), 'barrier'),
                       check=True, stderr=subprocess.DEVNULL)
        wait_until(lambda: self.log().text.count('barrier') > count, 'the log')

    def log(self):
        """Return what the log holds now.

        :rtype: `MailLog`
        """
        with open(self._path('log', 'mail.log'), encoding='utf-8',
                  errors='surrogateescape') as fp:
            return MailLog(fp.read())

    def delivered(self):
        """Wait for the queue, and return a Counter of recipients.

        It tells how often the log says `status=sent` of each.
        """
        return self.wait_until_delivered().delivered()

    def received(self):
        """Wait for the queue, and return a list of (sender, recipients).

        There is one for each message, in the order of the log.
        """
        return self.wait_until_delivered().received()
