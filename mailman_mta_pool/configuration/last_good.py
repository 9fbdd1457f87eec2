# SPDX-License-Identifier: GPL-3.0-or-later
"""The last good settings: a mistake in a file stops no delivery."""

import logging

from mailman_mta_pool.configuration.files import (
    ConfigurationError,
    read_configuration,
)
from mailman_mta_pool.configuration.loading import (
    configuration_path,
    exposures,
    PROGRAM,
    read_again,
    run_again,
    settings_of,
    Sources,
    sources_of,
    with_mta,
)
from mailman_mta_pool.configuration.secrets import Exposure, Programs
from mailman_mta_pool.secret import Secret
from mailman_mta_pool.settings import RelaySettings, Settings
from public import public
from typing import Callable, FrozenSet, Optional, Tuple, Union


log = logging.getLogger('mailman.smtp')

# Texts and secrets of files, and what was wrong with them.
_Seen = Tuple[Union[str, Secret], ...]


# Raises `ConfigurationError` for settings that cannot be used.
Check = Callable[[Settings], None]
# True of a relay whose login is refused.
IsRefused = Callable[[RelaySettings], bool]


class _LastGood:
    """The plugin's own settings, of its files when they were last good."""

    def __init__(self) -> None:
        # The files that the settings in force were made of.
        self._sources = Sources()
        self._settings: Optional[Settings] = None
        # The texts of the files when they were last read, and after them
        # what was wrong.
        self._seen: _Seen = ()
        self._programs = Programs()
        # The warnings about files with a secret that others may read.
        self._exposed: FrozenSet[Exposure] = frozenset()

    def settings(self, check: Check, is_refused: IsRefused) -> Settings:
        path = configuration_path()
        if self._settings is None or path != self._sources.path:
            sources = sources_of(
                path, read_configuration(path), self._programs)
            settings = settings_of(sources)
            self._adopt(sources, settings)
        else:
            settings = self._look_again(self._settings, check, is_refused)
        return with_mta(settings)

    def _adopt(self, sources: Sources, settings: Settings) -> None:
        self._sources, self._settings = sources, settings
        self._seen = _texts(sources)
        exposed = frozenset(exposures(sources))
        for path, what, who, remedy in sorted(exposed - self._exposed):
            log.warning('%s has %s, and %s may read it; `%s` mends that',
                        path, what, who, remedy)
        self._exposed = exposed

    def _look_again(self, settings: Settings, check: Check,
                    is_refused: IsRefused) -> Settings:
        """Adopt files that have changed, or log once what is wrong with them.

        The texts are compared, because an edit may leave the time and the
        size of a file as they were.

        :param settings: Those in force.
        :param check: See `last_good_settings`.
        :param is_refused: Likewise.
        :return: Those in force from now on.
        """
        before = self._sources
        seen: _Seen = ()
        try:
            text = read_configuration(before.path)
            seen = (text,)
            if text == before.text:
                now = run_again(
                    read_again(before),
                    [relay.name for relay in settings.relays
                     if relay.password_key == PROGRAM and is_refused(relay)],
                    self._programs.again)
            else:
                now = sources_of(before.path, text, self._programs)
            seen = _texts(now)
            if seen == self._seen:
                return settings
            changed = settings_of(now)
            _refuse_incomplete(now.path, now.text)
            _refuse_incomplete(now.answers_path, now.answers_text)
            check(with_mta(changed))
        except ConfigurationError as error:
            seen += (str(error),)
            if seen != self._seen:
                self._seen = seen
                log.error('%s; the last good settings hold', error)
            return settings
        log.info('%s has changed, and its settings are in force',
                 self._changed_file(before, now))
        self._adopt(now, changed)
        return changed

    def _changed_file(self, before: Sources, now: Sources) -> str:
        """Return the file whose change has made new settings."""
        if self._seen[:1] != (now.text,):
            return now.path
        for (name, key), secret in now.printed.items():
            if secret != before.printed.get((name, key)):
                return f'what the program of [{name}] {key} prints'
        for section, key in now.readers:
            if (now.read[section.name, key] !=
                    before.read[section.name, key]):
                return section.text(key)
        return now.answers_path or now.path


def _texts(sources: Sources) -> _Seen:
    """Return what the files say that are read for each post.

    And what the programs print that are run again.
    """
    return (sources.text, sources.answers_text, *sources.printed.values(), *(
        sources.read[section.name, key] for section, key in sources.readers))


def _refuse_incomplete(path: str, text: str) -> None:
    """Refuse a text that may be the first part of a longer one.

    Such a text can be valid: an empty one has all the defaults, and
    `split: 20` may be the beginning of `split: 20000`.

    :param path: The file, or '' for none.
    :param text: What it says.
    :raises ConfigurationError: if it does not end with a newline.
    """
    if path and not text.endswith('\n'):
        raise ConfigurationError(
            path, 'the last line', 'has no newline at its end, so '
            'the file may be half written')


_last_good = _LastGood()


def _nothing_more(settings: Settings) -> None:
    """Have nothing more against some settings; a `Check`."""


def _nobody(relay: RelaySettings) -> bool:
    """Know of no refused login; an `IsRefused`."""
    return False


@public
def last_good_settings(check: Check = _nothing_more,
                       is_refused: IsRefused = _nobody) -> Settings:
    """Return the settings that are in force in this process.

    The plugin's own configuration file, and the answers and the passwords
    that it names, are read each time.  A program that prints a password is
    run when the file that names it has changed, and, once in `FAILURE_PAUSE`
    at most, while the login with the password is refused.  A mistake that was
    made since is logged once for each change of a file, and the settings that
    were in force remain.

    :param check: Raises `ConfigurationError` for settings that cannot be
        used, for a reason that the configuration alone does not show.  It is
        asked of changed ones; the first ones are for the caller to check.
    :param is_refused: True of a relay whose login is refused, as far as is
        known without asking.
    :return: The settings.
    :raises ConfigurationError: if a value of [mta] is no good, or if one
        of the plugin's own files has a mistake, and has had it since this
        process first read it.
    :raises SecretUnavailable: likewise, if a program prints no password.
    """
    return _last_good.settings(check, is_refused)
