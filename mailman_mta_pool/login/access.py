# SPDX-License-Identifier: GPL-3.0-or-later
"""How we get into a relay: who we are, and what became of earlier logins."""

import smtplib

from mailman_mta_pool.login.credentials import Attempt, Credentials
from mailman_mta_pool.login.record import LoginRecord, Turn
from mailman_mta_pool.secret import Secret
from public import public
from typing import Callable, Optional, Union


def _no_record() -> Optional[LoginRecord]:
    return None


@public
class Access:
    """How the connections to a relay log in; of the network thread.

    Its repr shows nothing.
    """

    def __init__(self, make: Callable[[], Credentials],
                 find_record: Callable[[], Optional[LoginRecord]] = _no_record,
                 ) -> None:
        """Prepare; nothing is looked at before the first connection.

        :param make: Returns the credentials, or raises `UnusableValue`.
        :param find_record: Returns what all processes of this host know of
            the logins with what the credentials are now, for a file of them
            may be replaced; None for a connection that is on its own.
        """
        self._make = make
        self._find_record = find_record
        self._record: Optional[LoginRecord] = None
        self._credentials: Optional[Credentials] = None

    async def attempt(self) -> Optional[Attempt]:
        """Return what a login needs; None if no login is demanded.

        :raises UnusableValue: naming the key of what cannot be sent.
        :raises TokenUnavailable: if there is no token.
        :raises smtplib.SMTPAuthenticationError: if the login was refused of
            late, to whomever.
        """
        if self._credentials is None:
            self._credentials = self._make()
        if not self._credentials:
            return None
        self._record = self._find_record()
        if self._record is not None:
            refusal = self._record.refusal()
            if refusal is not None:
                raise smtplib.SMTPAuthenticationError(*refusal)
        return await self._credentials.attempt()

    async def turn(self, timeout: float) -> Turn:
        """Wait until this login may be tried.

        :param timeout: How many seconds at most.
        :return: A context manager, to be told what becomes of the login.
        :raises smtplib.SMTPAuthenticationError: if another one was refused
            meanwhile.
        :raises PhaseTimeout: if it is not its turn in time.
        """
        if self._record is None:
            return Turn()
        return await self._record.turn(timeout)


#: For a relay that wants no login.
NO_ACCESS = Access(lambda: Credentials('', Secret()))
public(NO_ACCESS=NO_ACCESS)


@public
def access_of(relay: str, user: str,
              password: Union[str, Secret]) -> Access:
    """Return the access of a connection that is on its own.

    :param relay: What the relay is called, for the log.
    :param user: The user name.
    :param password: The password; there is no login unless neither is empty.
    """
    hidden = password if isinstance(password, Secret) else Secret(password)
    return Access(lambda: Credentials(user, hidden, relay=relay))
