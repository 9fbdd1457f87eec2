# SPDX-License-Identifier: GPL-3.0-or-later
"""The whole check: the configuration, then each mail server."""

import time

from dataclasses import replace
from mailman_mta_pool.checking.questions import Questions, questions_for
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
    load,
    with_mta,
)
from mailman_mta_pool.configuration.secrets import SecretUnavailable
from mailman_mta_pool.errors import LocalFailure, printable
from mailman_mta_pool.network.border import border
from mailman_mta_pool.relays.factories import check_modes
from mailman_mta_pool.relays.limiting import check_limits
from mailman_mta_pool.settings import MTA, RelaySettings, Settings
from public import public
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
        for section, relay in relays_of(settings):
            self._check_relay(section, relay, settings, questions)

    @property
    def doing(self) -> str:
        """What is being done, in words."""
        for relay in self.check.relays[-1:]:
            return f'{relay.doing} of {relay.name}'
        return 'the configuration'

    def _configured(self) -> Optional[Settings]:
        """Return the settings, the defaults where a file is no good.

        None where nothing can be checked with them.
        """
        problem = None
        try:
            settings = load()
        except ConfigurationError as error:
            problem = _mistake(error)
            settings = None
        try:
            if settings is None:
                settings = _without_own_file()
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

    def _check_relay(self, section: str, relay: RelaySettings,
                     settings: Settings, questions: Questions) -> None:
        check = RelayCheck(
            printable(f'{relay.host}:{relay.port}'), section,
            printable(relay.secure_mode))
        self.check.relays.append(check)
        try:
            border.call(RelayChecker(
                check, relay, settings, questions, self._timeout,
                self.check.time).run)
        except LocalFailure as error:
            check.steps.append(Step(check.doing or 'resolve', '', None, (),
                               Problem(
                f'This process cannot check anything: {error}.',
                'Look at the limits of this machine and of this user '
                '(`ulimit -n`, `ulimit -u`).', status=Status.unknown)))


@public
def relays_of(settings: Settings) -> List[Tuple[str, RelaySettings]]:
    """Return each mail server, with the section that names it."""
    return [('[mta]' if relay.name == MTA else f'[relay.{relay.name}]', relay)
            for relay in settings.relays]


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
