# SPDX-License-Identifier: GPL-3.0-or-later

"""Headers and footers for a list, from files and from a web server."""

import os
import re
import hashlib
import threading

from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from hypothesis import strategies as st
from mailman.config import config
from mailman.interfaces.template import ITemplateManager
from public import public
from zope.component import getUtility


HEADER = 'list:member:regular:header'
FOOTER = 'list:member:regular:footer'
public(FOOTER=FOOTER, HEADER=HEADER)

PIECES = (
    '$user_name', '$user_name', '${user_address}', '$member', '$user_email',
    '$user_delivered_to', '$user_language', '$user_name_or_address',
    '$user_name_or_email', '$display_name', '$description', '$listname',
    '$unknown', '$$', '$mail_archive_url', '\n', '\n', '\n', ' ', '-- ', '.',
    'From ', '=', 'é', 'Ж', 'Hello ', 'x' * 70, '\r\n', '\r', '\f', '日',
    )
TEXTS = st.one_of(
    st.none(),
    st.lists(st.sampled_from(PIECES), max_size=8).map(''.join),
    st.sampled_from((
        '', ' \n', 'Nothing personal\n', '$user_name', ' $user_name \n',
        '_______\n$listname\nYou are $user_name <$user_email>\n',
        '$user_delivered_to $user_language $member\n')))
# A template's text and where it is kept.
TEMPLATES = st.tuples(
    TEXTS, st.sampled_from(6 * ('file',) + 2 * ('http',) + ('personal',)))
public(TEMPLATES=TEMPLATES)


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        key, _, rest = self.path.lstrip('/').partition('/')
        text = self.server.texts.get(key)
        if text is None:
            # The name of a member can make any path of a URI.
            self.send_error(404)
            return
        body = (text + rest).encode('utf-8')
        self.send_response(200)
        self.send_header('Content-Type', 'text/plain; charset=utf-8')
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *ignore):
        """The test says what is wrong, not the server."""


@public
class Templates:
    """Keeps the texts, and a web server for some of them."""

    def __init__(self):
        self._server = ThreadingHTTPServer(('127.0.0.1', 0), _Handler)
        self._server.texts = {}
        # So often, in seconds, the server looks whether it is to stop.
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def close(self):
        """Stop the server."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def set(self, name, mlist, text, kind='file'):
        """Give a list a header or a footer.

        :param name: `HEADER` or `FOOTER`.
        :param text: The text; None is Mailman's own.
        :param kind: 'file', 'http', or 'personal', where the URI holds the
            name of the member, and so does the text.
        """
        manager = getUtility(ITemplateManager)
        if text is None:
            manager.delete(name, mlist.list_id)
            return
        if kind != 'file':
            # Mailman's cache reads a lone CR as LF, so that it is one thing
            # for the first recipient and another for the next.
            text = re.sub('\r(?!\n)', '', text)
        # Never the same URI for another text: Mailman has a cache.
        key = hashlib.sha1(text.encode('utf-8')).hexdigest()
        if kind == 'file':
            uri = 'file://' + self._write(key, text)
        else:
            self._server.texts[key] = text
            uri = 'http://127.0.0.1:{}/{}/{}'.format(
                self._server.server_port, key,
                '$user_name' if kind == 'personal' else '')
        manager.set(name, mlist.list_id, uri)

    def _write(self, key, text):
        path = os.path.join(config.VAR_DIR, key)
        with open(path, 'w', encoding='utf-8', newline='') as fp:
            fp.write(text)
        return path
