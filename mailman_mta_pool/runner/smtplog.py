# SPDX-License-Identifier: GPL-3.0-or-later
"""The lines of smtp.log, by the templates of [logging.smtp]."""

import logging

from mailman.config import config
from mailman.utilities.string import expand
from mailman_mta_pool.errors import TemplateUnavailable
from mailman_mta_pool.settlement.ledger import Ledger
from mailman_mta_pool.wire.boundaries import Boundaries
from public import public
from string import Template
from typing import Any, Dict, Optional


log = logging.getLogger('mailman.smtp')


@public
class PostLog:
    """Writes the lines of one post, as `mailman.mta.deliver.deliver` does."""

    def __init__(self, mlist: Any, msg: Any, msgdata: Dict[str, Any]) -> None:
        """Keep what the delivery may change.

        :param mlist: The mailing list.
        :param msg: The message, before it is decorated.
        :param msgdata: Its metadata.
        """
        self._mlist = mlist
        self._msg = msg
        self._to_list = msgdata.get('to_list', False)
        self._size = getattr(
            msg, 'original_size', msgdata.get('original_size'))
        self._substitutions: Dict[str, Any] = dict(
            msgid=str(msg.get('message-id', 'n/a')).strip(),
            listname=mlist.fqdn_listname,
            sender=msgdata.get('original-sender', msg.sender),
            recip=len(msgdata['recipients']),
            smtpcode='n/a',
            smtpmsg='n/a',
            )

    def _write(self, name: str) -> None:
        template = getattr(config.logging.smtp, name)
        if template.lower() != 'no':
            log.info('%s', expand(
                template, self._list_for(template), self._substitutions))

    def _list_for(self, template: str) -> Any:
        """Return the list if the template needs it: its values cost SQL."""
        wanted = {match['named'] or match['braced']
                  for match in Template.pattern.finditer(template)}
        return None if wanted <= self._substitutions.keys() else self._mlist

    def write(self, seconds: float, ledger: Ledger,
              unavailable: Optional[Exception], recipients: int) -> None:
        """Write the lines of a post that is done.

        :param seconds: How long it took.
        :param ledger: What became of it.
        :param unavailable: Why the relay could not be used, or the template
            that was missing; or None.
        :param recipients: How many it was delivered to now; the others have
            their turn later.
        """
        if self._size is None:
            Boundaries().set_in(self._msg)
            # Not as_string(), which decodes, and cannot decode everything.
            self._size = len(self._msg.as_bytes())
        failures = ledger.failures
        refused = len(failures) + len(ledger.untried)
        # The schema documents $seconds; the default template has $time.
        self._substitutions.update(
            size=self._size, time=seconds, seconds=seconds,
            recip=recipients, refused=refused)
        self._write_failures(ledger, unavailable)
        self._write('every')
        if refused:
            self._write('refused')
        elif ledger.served:
            # A turn may end before anybody's time has come.
            self._write_success()
        for recipient, (code, text) in failures.items():
            self._substitutions.update(
                recip=recipient, smtpcode=code, smtpmsg=text)
            self._write('failure')

    def _write_failures(self, ledger: Ledger,
                        unavailable: Optional[Exception]) -> None:
        """Log the failures for which there are no templates."""
        name = self._substitutions['msgid']
        if unavailable is not None:
            what = ('Template' if isinstance(unavailable, TemplateUnavailable)
                    else 'Mail server')
            remedy = getattr(unavailable, 'remedy', '')
            log.error('%s unavailable: %s; %s is tried again later for %d '
                      'recipients%s', what, unavailable, name,
                      len(ledger.untried), remedy and f'; {remedy}')
        for relay, denial in ledger.denials.items():
            log.error('%s does not take mail from us: %s; %s is '
                      'tried again later for %d recipients%s',
                      'The mail server' if ledger.is_of_one_relay
                      else relay.name, denial.reply, name,
                      len(ledger.untried) + len(ledger.deferred),
                      denial.remedy and f'; {denial.remedy}')
        if ledger.used_up is not None:
            # The words are in the line on the pause.
            log.error('A quota of the mail server is used up; %s is tried '
                      'again later for %d recipients', name,
                      len(ledger.untried) + len(ledger.deferred))
        if ledger.rejected:
            log.error('The mail server rejects %s: %s; it is in the shunt '
                      'queue for %d recipients', name, ledger.rejection,
                      len(ledger.rejected))
        if ledger.in_doubt:
            log.warning('%s: %d recipients are tried again later, though '
                        'they may have got it', name, ledger.in_doubt)

    def _write_success(self) -> None:
        if not self._to_list:
            # To the owners, say: the recipients instead of their number.
            recipients = (self._msg.get_all('to', []) +
                          self._msg.get_all('cc', []))
            self._substitutions['recip'] = ','.join(map(str, recipients))
        self._write('success')
