# SPDX-License-Identifier: GPL-3.0-or-later

"""A real nginx as a mail proxy, unpacked from Debian's packages."""

import os
import shutil
import tempfile
import threading
import subprocess

from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from public import public
from tests.servers.exim import CACHE
from tests.servers.loopback import (
    end_group,
    free_port,
    HOST,
    is_accepting,
    make_passable,
    processes_of_group,
    wait_until,
)


ROOT = os.path.join(CACHE, 'nginx', 'usr')
BINARY = os.path.join(ROOT, 'sbin', 'nginx')
MODULE = os.path.join(ROOT, 'lib', 'nginx', 'modules', 'ngx_mail_module.so')
# nginx announces these, whatever the server behind can do.
CAPABILITIES = ('PIPELINING', 'SIZE 104857600', '8BITMIME',
                'ENHANCEDSTATUSCODES', 'CHUNKING')
CONFIGURATION = """\
load_module {module};
daemon off;
worker_processes 1;
pid {directory}/nginx.pid;
error_log {directory}/error.log info;
events {{
  worker_connections 256;
}}
mail {{
  server_name proxy.example.net;
  auth_http http://{host}:{helper}/;
  xclient off;
  smtp_auth none;
  smtp_capabilities {capabilities};
  server {{
    listen {host}:{port};
    protocol smtp;
  }}
}}
"""


@public
def available():
    """Tell why nginx cannot be run here.

    :return: The empty string if it can, else the reason.
    """
    missing = [path for path in (BINARY, MODULE) if not os.path.exists(path)]
    return 'not installed: {} (see tests/servers/install.sh)'.format(
        ', '.join(missing)) if missing else ''


class _Helper(BaseHTTPRequestHandler):
    """Tell nginx, for each client, which server is behind."""

    def do_GET(self):
        self.send_response(200)
        self.send_header('Auth-Status', 'OK')
        self.send_header('Auth-Server', self.server.target[0])
        self.send_header('Auth-Port', str(self.server.target[1]))
        self.end_headers()

    def log_message(self, *ignore):
        """See `BaseHTTPRequestHandler`; standard error is the test's."""


@public
class NginxMailProxy:
    """A mail proxy in front of an SMTP server; a context manager.

    nginx answers EHLO and the first MAIL itself.  The first RCPT makes nginx
    ask its helper, here a thread of this process, where to connect to, and
    nginx repeats EHLO, MAIL and RCPT there.  If the server behind refuses
    that MAIL, nginx answers the RCPT with 451 and hangs up.  After the reply
    to the first RCPT nginx hands on octets in both directions.

    :param target: The (host, port) of the server behind.
    :param capabilities: What nginx announces.
    """

    def __init__(self, target, capabilities=CAPABILITIES):
        self._target = target
        self._capabilities = capabilities
        self.host = HOST
        self.port = None
        self.directory = None
        self._nginx = None

    def __enter__(self):
        self._helper = ThreadingHTTPServer((HOST, 0), _Helper)
        self._helper.target = self._target
        self._thread = threading.Thread(
            target=self._helper.serve_forever,
            kwargs={'poll_interval': 0.05}, name='helper', daemon=True)
        self._thread.start()
        self.directory = tempfile.mkdtemp(prefix='nginx-')
        make_passable(self.directory)
        self.port = free_port()
        with open(self._path('nginx.conf'), 'w') as fp:
            fp.write(CONFIGURATION.format(
                module=MODULE, directory=self.directory, host=HOST,
                port=self.port, helper=self._helper.server_address[1],
                capabilities=' '.join(
                    '"{}"'.format(name) for name in self._capabilities)))
        self._nginx = subprocess.Popen(
            (BINARY, '-p', self.directory, '-c', self._path('nginx.conf'),
             '-e', self._path('error.log')),
            start_new_session=True, stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            wait_until(self._is_ready, 'nginx')
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *ignore):
        end_group(self._nginx.pid)
        self._nginx.wait()
        self._helper.shutdown()
        self._helper.server_close()
        self._thread.join()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _path(self, name):
        return os.path.join(self.directory, name)

    def _is_ready(self):
        if self._nginx.poll() is not None:
            raise OSError('nginx did not start: {}'.format(self.log()))
        return is_accepting(self.port)

    def pids(self):
        """Return the set of ids of this server's living processes."""
        return processes_of_group(self._nginx.pid)

    def log(self):
        """Return the text of nginx's log."""
        with open(self._path('error.log'), errors='replace') as fp:
            return fp.read()
