# SPDX-License-Identifier: GPL-3.0-or-later
"""The whole check: the configuration, then each mail server."""

import time

from dataclasses import replace
from mailman_mta_pool.checking.questions import (
    posting_addresses,
    Questions,
    questions_for,
)
from mailman_mta_pool.checking.relay import RelayChecker
from mailman_mta_pool.checking.steps import (
    Check,
    Problem,
    RelayCheck,
    Status,
    Step,
)
from mailman_mta_pool.configuration.answers import shipped_answers
from mailman_mta_pool.configuration.files import ConfigurationError
from mailman_mta_pool.configuration.loading import (
    configuration_path,
    exposures_in_force,
    gives_relays,
    load,
    with_mta,
)
from mailman_mta_pool.configuration.secrets import SecretUnavailable
from mailman_mta_pool.connection.srv import is_service, Target, Targets
from mailman_mta_pool.errors import LocalFailure
from mailman_mta_pool.keys import OWN_FILE, section_of
from mailman_mta_pool.limits.opening import reach_storage
from mailman_mta_pool.network.border import border
from mailman_mta_pool.relays.factories import check_modes
from mailman_mta_pool.relays.limiting import check_limits
from mailman_mta_pool.relays.routing import routing_warnings
from mailman_mta_pool.settings import FILE, RelaySettings, Settings
from mailman_mta_pool.shown import printable
from public import public
from smtplib import SMTPException
from typing import List, Optional, Tuple


@public
class Checker:
    """Checks all mail servers of the configuration.

    :ivar check: What was found so far.
    """

    def __init__(self, to: Optional[str], timeout: float,
                 now: Optional[float] = None) -> None:
        """Prepare.

        :param to: The recipient; None is an owner.
        :param timeout: The longest time for a step, in seconds.
        :param now: The time of day, in seconds since 1970.
        """
        self.check = Check(time.time() if now is None else now)
        self._to = to
        self._timeout = timeout

    def run(self) -> None:
        """Take all steps.

        :raises KeyboardInterrupt: if the user does not want to wait.
        """
        settings = self._configured()
        if settings is None:
            return
        questions = questions_for(self._to)
        self._look_at_passwords()
        self._look_at_lists(settings)
        self._look_at_limits(settings)
        for relay in settings.relays:
            for name, target in self._servers_of(relay):
                self._check_relay(name, relay, target, settings, questions)

    @property
    def doing(self) -> str:
        """What is being done, in words."""
        for relay in self.check.relays[-1:]:
            return f'{relay.doing} of {relay.name}'
        return 'the configuration'

    def _configured(self) -> Optional[Settings]:
        """Return the settings, the defaults where a file is no good.

        None where nothing can be checked with them.  Where the file gives
        relays, the server of [mta] is none of them.
        """
        problem = None
        try:
            settings = load()
        except ConfigurationError as error:
            problem = _mistake(error)
            settings = None
        try:
            if settings is None and not gives_relays():
                settings = _without_own_file()
            if settings is not None:
                check_modes(settings)
                check_limits(settings)
        except ConfigurationError as error:
            problem, settings = _mistake(error), None
        # The dialogue may be longer than a screen.
        text = problem.text if problem is not None else (
            printable(configuration_path()) or 'only defaults')
        self.check.steps.append(
            Step('configuration', text, problem=problem))
        return settings

    def _look_at_passwords(self) -> None:
        """Warn of files with a secret that others may read."""
        try:
            exposed = exposures_in_force()
        except ConfigurationError:
            # It was told before.
            return
        for each in exposed:
            path = printable(each.path)
            self._add('passwords', path, Problem(
                f'{path} has {each.what}, and {each.who} may read it.',
                f'Run `{printable(each.remedy)}`.', (), Status.warning))

    def _look_at_lists(self, settings: Settings) -> None:
        """Warn of lists that have no relay, and of mail without a list."""
        if not any(relay.lists for relay in settings.relays):
            return
        warnings = routing_warnings(settings, posting_addresses())
        for warning in warnings:
            text, _, remedy = warning.partition('; ')
            self._add('lists', '', Problem(
                f'{text[:1].upper()}{text[1:]}.',
                f'{remedy[:1].upper()}{remedy[1:]} in {OWN_FILE}.',
                ('[relay.NAME] for',), Status.warning))
        if not warnings:
            self._add('lists', 'each list, and mail without one, has a relay')

    def _look_at_limits(self, settings: Settings) -> None:
        """Warn if the server does not answer that counts what is sent."""
        if settings.limit_storage.url == FILE:
            return
        try:
            name, reason = border.call(reach_storage, settings.limit_storage)
        except LocalFailure as error:
            self._add('limits', '', _cannot_check(error))
            return
        name, problem = printable(name), None
        if reason:
            problem = Problem(
                f'The Redis server {name} cannot be used: '
                f'{printable(reason)}.',
                f'Start it, or correct [limits] storage in {OWN_FILE}.  '
                'Until then mail goes out, and this host keeps to its share '
                f'of each rate (hosts: {settings.hosts}).',
                ('[limits] storage', '[limits] hosts'), Status.warning)
        self._add('limits', f'counted at {name}', problem)

    def _add(self, name: str, text: str,
             problem: Optional[Problem] = None) -> None:
        self.check.steps.append(Step(name, text, problem=problem))

    def _servers_of(
            self, relay: RelaySettings,
            ) -> List[Tuple[str, Optional[Target]]]:
        """Return the servers of a relay, each with its name.

        Those that an SRV record names are checked one by one, as each may
        be used.
        """
        if not is_service(relay.host):
            return [(printable(f'{relay.host}:{relay.port}'), None)]
        timeout = min(self._timeout, relay.wire.timeouts.connect)
        try:
            targets = border.call(Targets(relay.host).get, timeout)
        except (OSError, SMTPException, UnicodeError, LocalFailure):
            # The check of the relay comes upon the same, and tells of it.
            return [(printable(relay.host), None)]
        return [(printable(f'{target.host}:{target.port}'), target)
                for target in sorted(targets)]

    def _check_relay(self, name: str, relay: RelaySettings,
                     target: Optional[Target], settings: Settings,
                     questions: Questions) -> None:
        check = RelayCheck(
            name, section_of(relay), printable(relay.secure_mode))
        self.check.relays.append(check)
        try:
            border.call(RelayChecker(
                check, relay, settings, questions, self._timeout,
                self.check.time, target).run)
        except LocalFailure as error:
            check.steps.append(Step(
                check.doing or 'resolve', '', None, (), _cannot_check(error)))


def _cannot_check(error: LocalFailure) -> Problem:
    return Problem(
        f'This process cannot check anything: {error}.',
        'Look at the limits of this machine and of this user (`ulimit -n`, '
        '`ulimit -u`).', status=Status.unknown)


def _without_own_file() -> Settings:
    settings = Settings()
    return with_mta(replace(settings, delivery=replace(
        settings.delivery, answers=shipped_answers())))


def _mistake(error: ConfigurationError) -> Problem:
    remedy = 'Correct the file; no runner starts before that.'
    if isinstance(error, SecretUnavailable):
        remedy = 'Correct the program; posts wait until it prints one.'
    return Problem(
        f'{printable(str(error))}.', remedy, (printable(str(error.key)),))
