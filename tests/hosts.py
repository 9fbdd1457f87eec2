# SPDX-License-Identifier: GPL-3.0-or-later

"""Several hosts on one machine, each of which can lose its power.

A host is a set of Linux namespaces: it has a name, a network, processes, and
a clock of its own, and was started at another time than the others.  The
files are the same for all, like those on storage that hosts share.
"""

import os
import uuid
import ctypes
import signal
import tempfile
import subprocess

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from public import public
from tests.servers.loopback import DEADLINE, wait_until
from threading import get_native_id


# From <linux/sched.h>: mounts, the name, processes, the network, the clock.
NAMESPACES = 0x00020000 | 0x04000000 | 0x20000000 | 0x40000000 | 0x00000080
#: Where all hosts reach the one that is in the middle (RFC 5737).
ADDRESS = '192.0.2.1'
public(ADDRESS=ADDRESS)
# The first process of a host; the others end with it, and it ends with us.
INIT = """
mount --make-rprivate / && mount -t proc proc /proc &&
mount --bind "$2" /proc/sys/kernel/random/boot_id &&
hostname "$1" && ip link set lo up && echo ready && exec cat >/dev/null
"""


@public
class Host:
    """A context manager, at whose end all processes of the host are killed.

    :param name: The name of the host.
    :param uptime: For how many seconds longer than this machine it has been
        running.
    :ivar address: Its address, when it has been connected.
    """

    def __init__(self, name, uptime=0):
        self.name = name
        self.address = None
        self._uptime = uptime
        # The namespaces are a thread's own, and its children inherit them.
        self._thread = ThreadPoolExecutor(1)
        self._resources = ExitStack()
        self._resources.callback(self._thread.shutdown)

    def __repr__(self):
        return f'<Host {self.name}>'

    def __enter__(self):
        try:
            self.call(self._begin)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *ignore):
        self._resources.close()

    def call(self, function, *arguments, **keywords):
        """Call a function on this host.

        The processes that it starts and the sockets that it opens are this
        host's.  It cannot start threads, and in /proc it does not see this
        process.

        :return: What the function returned.
        """
        return self._thread.submit(function, *arguments, **keywords).result()

    def run(self, *command, **options):
        """Run a command on this host, which has to succeed."""
        self.call(subprocess.run, command, check=True, **options)

    def _begin(self):
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(NAMESPACES) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        with open(f'/proc/{get_native_id()}/timens_offsets', 'w') as fp:
            for clock in ('monotonic', 'boottime'):
                print(clock, self._uptime, 0, file=fp)
        boot_id = self._resources.enter_context(
            tempfile.NamedTemporaryFile('w'))
        print(uuid.uuid4(), file=boot_id, flush=True)
        self._init = subprocess.Popen(
            ('sh', '-c', INIT, 'sh', self.name, boot_id.name),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._resources.callback(self._close)
        if self._init.stdout.readline() != b'ready\n':
            raise OSError(f'{self} could not be started')

    def _close(self):
        self._init.kill()
        self._init.stdin.close()
        self._init.stdout.close()
        # It ends after all others, and those that this process has started
        # when whoever did so has waited for them.
        self._init.wait(DEADLINE)

    # What is seen from outside.

    def _namespace(self, process, kind):
        return os.readlink(f'/proc/{process}/ns/{kind}')

    def processes(self):
        """Return the ids of the living processes of this host.

        :return: The ids by which this process knows them; that of the first
            one is not among them.
        """
        found = set()
        with suppress(OSError):
            ours = self._namespace(self._init.pid, 'pid')
            for name in filter(str.isdigit, os.listdir('/proc')):
                # A process may end meanwhile.
                with suppress(OSError):
                    if (self._namespace(name, 'pid') == ours and
                            _is_alive(name)):
                        found.add(int(name))
        return found - {self._init.pid}

    def power_off(self):
        """Kill all processes at once; when this returns none is alive."""
        processes = self.processes()
        self._init.send_signal(signal.SIGKILL)
        wait_until(lambda: not any(map(_is_alive, processes)),
                   f'the end of {self}')

    def be_in_the_middle(self):
        """Have the address `ADDRESS`, with nobody connected yet."""
        self.run('ip', 'address', 'add', ADDRESS, 'dev', 'lo')

    def connect(self, host, number):
        """Put a cable between this host, in the middle, and another one.

        :param host: The other host; its address is in the same network as
            `ADDRESS`, with `number` as its last part.
        """
        address = host.address = f'192.0.2.{number}'
        near, far = f'to-{host.name}', f'of-{host.name}'
        network = os.open(f'/proc/{host.pid}/ns/net', os.O_RDONLY)
        try:
            self.run('ip', 'link', 'add', near, 'type', 'veth', 'peer', 'name',
                     far, 'netns', f'/proc/self/fd/{network}',
                     pass_fds=(network,))
        finally:
            os.close(network)
        for end, name, own, other in ((self, near, ADDRESS, address),
                                      (host, far, address, ADDRESS)):
            end.run('ip', 'address', 'add', own, 'peer', other, 'dev', name)
            end.run('ip', 'link', 'set', name, 'up')

    def cut(self, host):
        """Cut the cable to a host; nobody is told that it has gone."""
        self.run('ip', 'link', 'set', f'to-{host.name}', 'down')

    @property
    def pid(self):
        """The id of the first process of this host."""
        return self._init.pid


def _is_alive(process):
    try:
        with open(f'/proc/{process}/stat') as fp:
            return fp.read().rpartition(')')[2].split()[0] not in 'ZX'
    except OSError:
        return False


@public
def available():
    """Tell why there can be no hosts here.

    :return: The empty string if there can be some, else the reason.
    """
    if os.geteuid() != 0:
        return 'only root can have hosts of its own'
    try:
        with Host('probe', 60) as host:
            host.run('ip', 'link', 'add', 'near', 'type', 'veth', 'peer',
                     'name', 'far')
    except (OSError, subprocess.CalledProcessError) as error:
        return f'no hosts of our own: {error}'
    return ''
