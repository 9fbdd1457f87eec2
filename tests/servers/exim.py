# SPDX-License-Identifier: GPL-3.0-or-later

"""A real Exim, unpacked from Debian's package, with a spool of its own."""

import io
import os
import pwd
import shutil
import tempfile
import subprocess

from public import public
from tests.servers.loopback import (
    end_group,
    free_port,
    HOST,
    is_accepting,
    make_passable,
    processes_of_group,
    wait_until,
)
from tests.servers.recorder import Received


# Where install.sh puts it.
CACHE = os.environ.get('MTA_POOL_CACHE', '/var/cache/mailman-mta-pool')
BINARY = os.path.join(CACHE, 'exim', 'usr', 'sbin', 'exim4')
USER = 'Debian-exim'
# Everything is accepted and delivered at once, with the rights that the
# server has anyway, into one file for each message: a batch of SMTP commands,
# which holds the envelope and the content to the octet.
CONFIGURATION = """\
exim_path = {binary}
exim_user = {user}
exim_group = {user}
never_users =
deliver_drop_privilege
keep_environment =
spool_directory = {directory}/spool
log_file_path = {directory}/log/%slog
pid_file_path = {directory}/exim.pid
local_interfaces = {host}
daemon_smtp_ports = {port}
primary_hostname = exim.example.net
acl_smtp_rcpt = check_rcpt
acl_smtp_data = accept
host_lookup =
rfc1413_hosts =
smtp_accept_max = 0
smtp_accept_queue_per_connection = 0
smtp_accept_max_per_connection = 0
smtp_accept_max_nonmail_hosts = {impatient_with}
recipients_max = 0
message_size_limit = 100M
message_id_header_text =
received_header_text = Received: by exim.example.net with $received_protocol
pipelining_advertise_hosts = *
chunking_advertise_hosts = *
smtputf8_advertise_hosts = *
accept_8bitmime = true
smtp_enforce_sync = {enforce_sync}
tls_advertise_hosts =
queue_only = {queue_only}
remote_max_parallel = 1
allow_utf8_domains = true
strip_trailing_dot = false
{extra}

begin acl
check_rcpt:
{rules}
  accept

begin routers
everything:
  driver = {router}

begin transports
file:
  driver = appendfile
  file = {directory}/mail/$message_exim_id
  user = {user}
  batch_max = 100000
  use_bsmtp
  use_crlf
  message_prefix = "HELO exim.example.net\\r\\n"
  message_suffix =
  check_string =
  escape_string =
"""
DELIVER = 'accept\n  transport = file'
DISCARD = 'redirect\n  data = :blackhole:'


@public
def available():
    """Tell why Exim cannot be run here.

    :return: The empty string if it can, else the reason.
    """
    if os.geteuid() != 0:
        return 'Exim needs root'
    if not os.access(BINARY, os.X_OK):
        return 'not installed: {} (see tests/servers/install.sh)'.format(
            BINARY)
    try:
        pwd.getpwnam(USER)
    except KeyError:
        return 'no user {} (see tests/servers/install.sh)'.format(USER)
    return ''


def _envelopes(batch):
    """Yield what a file in batched SMTP holds.

    :param batch: The file's content.
    :type batch: bytes
    """
    # Unlike `splitlines()` this leaves a bare CR alone.
    lines = io.BytesIO(batch)
    sender, recipients = None, []
    for line in lines:
        if line.startswith(b'MAIL FROM:<'):
            sender, recipients = _address(line), []
        elif line.startswith(b'RCPT TO:<'):
            recipients.append(_address(line))
        elif line.startswith(b'DATA'):
            yield Received(sender, recipients, b''.join(_content(lines)))


def _address(line):
    return line.partition(b'<')[2].rpartition(b'>')[0].decode(
        'utf-8', 'surrogateescape')


def _content(lines):
    for line in lines:
        if line == b'.\r\n':
            return
        yield line[1:] if line.startswith(b'.') else line


@public
class Exim:
    """An Exim that accepts everything.

    :param discard: Throw the messages away; there is then nothing to read
        back.
    :param queue_only: Accept, and leave the messages on the spool.
    :param enforce_sync: Refuse a client that does not wait where the RFCs
        say so.
    :param patient: Bear any number of commands that are no part of a message,
        such as RSET.  By default Exim hangs up after ten of them.
    :param rules: The beginning of the ACL for RCPT, which then accepts.
    :param extra: Further lines for the main part of the configuration.
    """

    def __init__(self, discard=False, queue_only=False, enforce_sync=True,
                 patient=True, rules='', extra=''):
        self._options = {
            'router': DISCARD if discard else DELIVER,
            'queue_only': str(queue_only).lower(),
            'enforce_sync': str(enforce_sync).lower(),
            'impatient_with': '' if patient else '*',
            'rules': rules,
            'extra': extra,
            }
        self.host = HOST
        self.port = None
        self.directory = None
        self._daemon = None

    def __enter__(self):
        self.directory = tempfile.mkdtemp(prefix='exim-')
        make_passable(self.directory)
        user = pwd.getpwnam(USER)
        for name in ('spool', 'log', 'mail'):
            os.mkdir(self._path(name), 0o750)
            os.chown(self._path(name), user.pw_uid, user.pw_gid)
        self.port = free_port()
        self._configure()
        self.start()
        return self

    def start(self):
        """Start the server again, on the same port, after `stop()`."""
        # In the foreground, as the leader of a process group that the
        # processes of the connections and of the deliveries stay in.
        self._daemon = subprocess.Popen(
            (BINARY, '-C', self._path('exim.conf'), '-bdf'),
            start_new_session=True, stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        try:
            wait_until(self._is_ready, 'Exim')
        except BaseException:
            self.__exit__()
            raise

    def stop(self):
        """Stop the server, and keep its spool, its logs and its port."""
        end_group(self._daemon.pid)
        self._daemon.wait()
        self._daemon.stderr.close()

    def change(self, rules):
        """Change the rules, as an administrator does, and start again.

        :param rules: The beginning of the ACL for RCPT.
        """
        self._options['rules'] = rules
        self.stop()
        self._configure()
        self.start()

    def _path(self, *names):
        return os.path.join(self.directory, *names)

    def _configure(self):
        with open(self._path('exim.conf'), 'w') as fp:
            fp.write(CONFIGURATION.format(
                binary=BINARY, user=USER, host=HOST, port=self.port,
                directory=self.directory, **self._options))

    def _is_ready(self):
        if self._daemon.poll() is not None:
            raise OSError('Exim did not start: {}'.format(
                self._daemon.stderr.read().decode()))
        return is_accepting(self.port)

    def __exit__(self, *ignore):
        self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    def pids(self):
        """Return the set of ids of this server's living processes."""
        return processes_of_group(self._daemon.pid)

    def log(self, name='main'):
        """Return the text of a log: `main`, `reject` or `panic`."""
        try:
            with open(self._path('log', name + 'log'), encoding='utf-8',
                      errors='surrogateescape') as fp:
                return fp.read()
        except FileNotFoundError:
            # Exim makes a log with its first line.
            return ''

    def queued(self):
        """Return how many messages are on the spool."""
        return sum(name.endswith('-H')
                   for *_, names in os.walk(self._path('spool', 'input'))
                   for name in names)

    def messages(self, deadline=60):
        """Wait until all is delivered, and return what was.

        :param deadline: The longest wait, in seconds.
        :return: A list of `Received`, in the order of arrival.  The content
            begins with the header field that Exim itself adds.
        :raises TimeoutError: when the deadline passes.
        """
        wait_until(lambda: self.queued() == 0, 'an empty spool', deadline)
        messages = []
        for name in sorted(os.listdir(self._path('mail'))):
            with open(self._path('mail', name), 'rb') as fp:
                messages.extend(_envelopes(fp.read()))
        return messages
