# SPDX-License-Identifier: GPL-3.0-or-later
"""The client's side of AUTH (RFC 4954), without I/O.

`Authentication` puts a mechanism into lines and judges the replies.
"""

import base64
import smtplib
import binascii

from contextlib import suppress
from mailman_mta_pool.errors import BadChallenge, ProtocolError
from mailman_mta_pool.login.mechanisms import Mechanism
from mailman_mta_pool.shown import (
    Hidden,
    LONG_PART_LENGTH,
    never_repeated,
    PART_LENGTH,
    shapes_of,
)
from mailman_mta_pool.wire.replies import Reply
from public import public
from typing import List, Optional, Tuple


# RFC 4954, section 4: the command line is as long as any other, its line
# ending included (RFC 5321, section 4.5.3.1.4); a response may be longer.
MAX_COMMAND = 512
MAX_RESPONSE = 12288
# RFC 4954, section 4: the client gives up.
CANCEL = b'*'
public(CANCEL=CANCEL, MAX_COMMAND=MAX_COMMAND, MAX_RESPONSE=MAX_RESPONSE)


@public
class Authentication:
    """One AUTH command, its challenges and its outcome.

    There is no second one: a server that has refused one mechanism is not
    tried with a weaker one.

    :ivar mechanism: The name of the mechanism.
    :ivar is_slow: True if `answer` may take a second, so that it is to be
        called in another thread.
    :ivar command: The command line to begin with, without CRLF.
    :ivar never_repeated: What no reply may show once we are logged in.
    :ivar secrets: What no text may show: the secrets, and all that was made
        of them so far, in the shapes in which it may be seen.
    """

    def __init__(self, mechanism: Mechanism, secrets: Tuple[bytes, ...],
                 user: bytes = b'') -> None:
        """Prepare the command.

        :param mechanism: A fresh one.
        :param secrets: The password, or the token.
        :param user: The user name, if that may not show either.
        """
        self.mechanism = mechanism.name
        self.is_slow = mechanism.is_slow
        self._mechanism = mechanism
        self._due = mechanism.challenges
        self.secrets: List[Hidden] = []
        self.never_repeated = never_repeated(secrets)
        for secret in secrets:
            self._keep_to_ourselves(secret, PART_LENGTH)
        # A part of a user name, such as a domain, is in many a text.
        for name in {user, user.partition(b'@')[0]}:
            if len(name) >= PART_LENGTH:
                self._keep_to_ourselves(name, MAX_RESPONSE)
        self.command = b'AUTH ' + mechanism.name.encode('ascii')
        # What is too long for the command, and is asked for then.
        self._initial = mechanism.initial()
        if self._initial is not None:
            self._add_initial(self._initial)

    def _keep_to_ourselves(self, secret: bytes, part: int) -> None:
        self.secrets.extend(
            Hidden(shape, part) for shape in shapes_of(secret) if shape)

    def _add_initial(self, initial: bytes) -> None:
        # RFC 4954, section 4: '=' is an initial response without octets.
        command = self.command + b' ' + (self._encoded(initial) or b'=')
        if len(command + b'\r\n') <= MAX_COMMAND:
            self.command = command
            self._initial = None

    def _encoded(self, response: bytes) -> bytes:
        if self._mechanism.hides_responses:
            # Four of its characters are in many a text by chance.
            self._keep_to_ourselves(response, LONG_PART_LENGTH)
        return base64.b64encode(response)

    def answer(self, reply: Reply) -> Optional[bytes]:
        """Return the line that answers a reply; None once authenticated.

        :param reply: The reply to the last line.
        :return: The next line, without CRLF.
        :raises smtplib.SMTPAuthenticationError: if the server refuses.
        :raises BadChallenge: if the exchange is over; after a challenge
            `CANCEL` is to be sent, and nothing after.
        :raises ProtocolError: if the reply is none to AUTH.
        """
        if reply.code == 235:
            self._mechanism.verify()
            return None
        if reply.code >= 400:
            raise smtplib.SMTPAuthenticationError(
                reply.code, self._refusal(reply))
        if reply.code != 334:
            raise ProtocolError(f'no reply to AUTH: {reply}')
        if self._initial is not None:
            # The challenge has no meaning.
            initial, self._initial = self._initial, None
            return self._encoded(initial)
        if self._due == 0:
            raise BadChallenge(
                f'the server sent a challenge that {self.mechanism} does not '
                'have')
        self._due -= 1
        return self._encoded(self._mechanism.answer(self._challenge(reply)))

    def _refusal(self, reply: Reply) -> bytes:
        explanation = self._mechanism.explanation
        if not explanation:
            return reply.text
        return reply.text + f' ({explanation})'.encode()

    def _challenge(self, reply: Reply) -> bytes:
        with suppress(binascii.Error):
            return base64.b64decode(reply.text.strip(), validate=True)
        raise BadChallenge(
            f'the challenge of {self.mechanism} is not base64: {reply}')
