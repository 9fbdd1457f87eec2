# SPDX-License-Identifier: GPL-3.0-or-later
"""Tokens from a token endpoint: client credentials and refresh tokens.

RFC 6749, sections 4.4 and 6.  It is not for the network thread, for it waits.
"""

import os
import stat
import time
import errno
import fcntl
import logging
import tempfile

from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from http.client import (
    HTTPConnection,
    HTTPException,
    HTTPResponse,
    HTTPSConnection,
)
from mailman_mta_pool.errors import TokenUnavailable
from mailman_mta_pool.login.grant import Grant, grant_in, json_in
from mailman_mta_pool.programs import line_in, MAX_LENGTH
from mailman_mta_pool.secret import Secret
from mailman_mta_pool.settings import TokenSettings
from mailman_mta_pool.shown import hidden, printable
from public import public
from socket import SHUT_RDWR, socket
from typing import (
    Any,
    BinaryIO,
    Callable,
    Collection,
    Dict,
    Iterator,
    Optional,
    Tuple,
)
from urllib.parse import urlencode, urlsplit


log = logging.getLogger('mailman.smtp')

# How many seconds the endpoint may take for each step; all of it may take
# `tokens.FETCH_TIMEOUT`.
STEP_TIMEOUT = 10.0
# Who waits for a refresh token that another process uses looks again after so
# many seconds.
LOOK_INTERVAL = 0.1
# No response is longer, in octets.
MAX_RESPONSE = 64 * 1024
# No number of seconds is longer.
MAX_DIGITS = 10
# Of what an error says this much is shown, in characters.
MAX_SHOWN = 200
FORM = 'application/x-www-form-urlencoded'
# What a disk without room answers.
FULL = frozenset([errno.ENOSPC, errno.EDQUOT])
# The keys of an error (RFC 6749, section 5.2).
_TOLD = ('error', 'error_description')


class _Patience:
    """Has an end, which another thread may bring about; one for each fetch.

    A socket's own timeout begins anew with each octet.
    """

    def __init__(self) -> None:
        self._has_ended = False
        self._sock: Optional[socket] = None

    def uses(self, sock: socket) -> None:
        """Name the socket that is waited for from now on.

        The connection does not do: it forgets the socket while the content of
        the response is still to come.

        :raises TimeoutError: if there is no more patience.
        """
        self._sock = sock
        self.check()

    def check(self) -> None:
        """Raise `TimeoutError` if there is no more patience."""
        if self._has_ended:
            raise TimeoutError('was given up')

    def end(self) -> None:
        """End the waiting; for another thread."""
        self._has_ended = True
        if self._sock is not None:
            with suppress(OSError):
                # Whoever waits for it gets an error.
                self._sock.shutdown(SHUT_RDWR)


@public
class EndpointSource:
    """Gets tokens from a token endpoint; see `Tokens`."""

    def __init__(self, settings: TokenSettings, section: str,
                 sleep: Callable[[float], None] = time.sleep) -> None:
        """Prepare; nothing is opened.

        :param settings: The endpoint, and who we are there.
        :param section: Where these are set, for errors.
        :param sleep: Waits for so many seconds.
        """
        self._settings = settings
        self._section = section
        self._sleep = sleep
        # That of the fetch that was begun last.
        self._patience = _Patience()
        # A refresh token that could not be written, after the one that the
        # file has in its place.
        self._unwritten = Secret(), Secret()

    def fetch(self) -> Grant:
        """See `Source`."""
        patience = self._patience = _Patience()
        if not self._settings.refresh_token_file:
            return self._ask(Secret(), patience)
        with self._refresh_token(patience) as token:
            written, unwritten = self._unwritten
            # Whoever changes the file knows better.
            grant = self._ask(
                unwritten if unwritten and written == token else token,
                patience)
            if grant.refresh_token and grant.refresh_token != token:
                self._keep(token, grant.refresh_token)
            return grant

    def abort(self) -> None:
        """See `Source`."""
        self._patience.end()

    def failure(self, problem: str, pause: float = 0.0) -> TokenUnavailable:
        """See `Source`; the query of the URL may be secret."""
        url = urlsplit(self._settings.url)._replace(query='').geturl()
        return TokenUnavailable(printable(
            f'there is no token: {url} {problem}; look at the keys of '
            f'{self._section}'), pause)

    # The request.

    def _ask(self, refresh_token: Secret, patience: '_Patience') -> Grant:
        secrets = [refresh_token, self._settings.client_secret]
        form = self._form(refresh_token)
        pause = 0.0
        try:
            status, octets, pause = self._post(form, patience)
        except (OSError, HTTPException, ValueError) as error:
            # Of a foreign text only what quotes nothing of ours.
            problem = hidden(secrets, str(error) or type(error).__name__)
        else:
            try:
                found = json_in(octets)
                if status == 200:
                    return grant_in(found)
                problem = f'answers {status}{_told(found, secrets)}'
            except ValueError as error:
                problem = f'answers {status} with what {error}'
        raise self.failure(problem, pause)

    def _form(self, refresh_token: Secret) -> str:
        settings = self._settings
        form: Dict[str, str] = {'client_id': settings.client_id}
        if settings.client_secret:
            form['client_secret'] = settings.client_secret.reveal()
        if settings.scope:
            form['scope'] = settings.scope
        if refresh_token:
            form['grant_type'] = 'refresh_token'
            form['refresh_token'] = refresh_token.reveal()
        else:
            form['grant_type'] = 'client_credentials'
        return urlencode(form)

    def _post(self, form: str,
              patience: '_Patience') -> Tuple[int, bytes, float]:
        """Return the status, the content and the pause of the response.

        Nothing follows a redirection, which would take the secrets elsewhere.
        """
        url = urlsplit(self._settings.url)
        assert url.hostname is not None
        kind = HTTPConnection if url.scheme == 'http' else HTTPSConnection
        connection = kind(url.hostname, url.port, timeout=STEP_TIMEOUT)
        path = (url.path or '/') + (f'?{url.query}' if url.query else '')
        try:
            connection.connect()
            patience.uses(connection.sock)
            connection.request('POST', path, form.encode('ascii'), {
                'Content-Type': FORM, 'Accept': 'application/json'})
            response: HTTPResponse = connection.getresponse()
            octets = response.read(MAX_RESPONSE + 1)
            if len(octets) > MAX_RESPONSE:
                raise ValueError(f'answers more than {MAX_RESPONSE} octets')
            return response.status, octets, _pause_in(response)
        finally:
            connection.close()

    # The refresh token.

    @contextmanager
    def _refresh_token(self, patience: '_Patience') -> Iterator[Secret]:
        """Read the refresh token, and keep other processes from using it.

        Some providers take each one once.
        """
        path = self._settings.refresh_token_file
        try:
            file = self._locked(path, patience)
        except OSError as error:
            raise self.failure(
                f'needs {path}: {error.strerror or error}') from None
        with file:
            octets = file.read(MAX_LENGTH + 3)
            try:
                token = Secret(line_in(octets))
            except ValueError as error:
                problem = str(error)
            else:
                yield token
                return
        raise self.failure(f'needs {path}, and that {problem}')

    def _locked(self, path: str, patience: '_Patience') -> BinaryIO:
        """Return a file that no other process has locked, open for reading.

        :raises OSError: if it cannot be read, or is not free in time.
        """
        while True:
            file = open(path, 'rb')
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                    return file
            except BlockingIOError:
                # Another process asks the endpoint.
                self._sleep(LOOK_INTERVAL)
            except BaseException:
                file.close()
                raise
            # It is in use, or was replaced meanwhile.
            file.close()
            patience.check()

    def _keep(self, before: Secret, token: Secret) -> None:
        path = self._settings.refresh_token_file
        try:
            _replace(path, token.reveal().encode('utf-8') + b'\n')
        except OSError as error:
            self._unwritten = before, token
            log.warning(
                '%s: the provider has sent another refresh token, which '
                'cannot be written to %s: %s; let the user of Mailman write '
                'that file', self._section, path, error.strerror or error)
        else:
            self._unwritten = Secret(), Secret()


def _pause_in(response: HTTPResponse) -> float:
    """Return how long a response has us wait (RFC 9110, section 10.2.3).

    :return: Seconds; 0 if it does not say, or what makes no sense.
    """
    value = response.getheader('Retry-After') or ''
    if response.status not in (429, 503):
        return 0.0
    if value.isascii() and value.isdigit() and len(value) < MAX_DIGITS:
        return float(value)
    with suppress(TypeError, ValueError, OverflowError):
        then = parsedate_to_datetime(value)
        return max(0.0, (then - datetime.now(timezone.utc)).total_seconds())
    return 0.0


def _told(found: Any, secrets: Collection[Secret]) -> str:
    """Return what an error says, in words.

    :param found: The JSON of the error.
    :param secrets: What may not show.
    """
    if not isinstance(found, dict):
        return ''
    words = ', '.join(
        printable(found[key])[:MAX_SHOWN] for key in _TOLD
        if isinstance(found.get(key), str))
    return f': {hidden(secrets, words)}' if words else ''


def _replace(path: str, octets: bytes) -> None:
    """Write a file anew, so that it is never there by half if possible.

    Whoever may read it may do so afterwards, as far as that is ours to say.

    :raises OSError: if that cannot be done.
    """
    # What is a link stays one.
    path = os.path.realpath(path)
    try:
        _put_in_place(path, octets)
    except OSError as error:
        if error.errno in FULL:
            raise
        # The directory may be another user's, or the file mounted.
        with open(path, 'r+b') as file:
            file.write(octets)
            file.truncate()
            file.flush()
            os.fsync(file.fileno())


def _put_in_place(path: str, octets: bytes) -> None:
    status = os.stat(path)
    descriptor, new = tempfile.mkstemp(dir=os.path.dirname(path))
    try:
        with open(descriptor, 'wb') as file:
            file.write(octets)
            # Only root can give a file to another user.
            with suppress(PermissionError):
                os.fchown(descriptor, status.st_uid, status.st_gid)
                os.fchmod(descriptor, stat.S_IMODE(status.st_mode))
            file.flush()
            os.fsync(descriptor)
        os.replace(new, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(new)
        raise
