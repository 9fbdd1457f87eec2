# SPDX-License-Identifier: GPL-3.0-or-later
"""Who got a post, who did not and why, and who is left."""

from mailman_mta_pool.interfaces import Failure
from mailman_mta_pool.wire.replies import Reply
from public import public
from typing import Any, Dict, Iterable, List, Sequence, Set


@public
class Books:
    """What is entered of the recipients of one post.

    :ivar served: Those for whom the server took responsibility.
    :ivar bounced: Code and text of those refused for good.
    :ivar deferred: Code and text of those refused for the time being.
    :ivar rejected: Those for whom the server did not want the message.
    :ivar untried: Those for whom the relay, or the template, was not
        available.
    """

    def __init__(self, record: Any = None) -> None:
        """Begin with empty pages.

        :param record: The `IRecord` that is told what is settled; None for
            nobody.
        """
        self._record: Any = _Nobody() if record is None else record
        self.served: Set[str] = set()
        self.bounced: Dict[str, Failure] = {}
        self.deferred: Dict[str, Failure] = {}
        self.rejected: Dict[str, Failure] = {}
        self.untried: List[str] = []

    def carry_over(self, bounced: Dict[str, Failure]) -> None:
        """Enter those whom an earlier delivery has recorded as refused."""
        self.bounced.update(bounced)

    def serve(self, recipients: Sequence[str]) -> None:
        """These have got the post."""
        self.served.update(recipients)
        self._record.served(recipients)

    def bounce(self, recipient: str, reply: Reply) -> None:
        """This one was refused for good."""
        self.bounced[recipient] = reply.code, reply.text
        self._record.bounced(recipient, reply.code, reply.text)

    def defer(self, recipient: str, reply: Reply) -> None:
        """This one was refused for the time being."""
        self.deferred[recipient] = reply.code, reply.text

    def reject(self, recipient: str, reply: Reply) -> None:
        """For this one the server did not want the message."""
        self.rejected[recipient] = reply.code, reply.text

    @property
    def failures(self) -> Dict[str, Failure]:
        """Delivery failures as defined by `smtplib.SMTP.sendmail`."""
        return {**self.bounced, **self.deferred, **self.rejected}

    def unsettled(self, recipients: Iterable[str]) -> List[str]:
        """Return those of whom nothing is known, each once, in order."""
        return [recipient for recipient in dict.fromkeys(recipients)
                if not (recipient in self.served or
                        recipient in self.bounced or
                        recipient in self.deferred or
                        recipient in self.rejected)]

    def unserved(self, recipients: Iterable[str]) -> List[str]:
        """Return those who have not got the post, each once, in order."""
        return [recipient for recipient in dict.fromkeys(recipients)
                if recipient not in self.served]


class _Nobody:
    def served(self, recipients: Iterable[str]) -> None:
        pass

    def bounced(self, recipient: str, code: int, text: bytes) -> None:
        pass
