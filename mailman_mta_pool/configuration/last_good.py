# SPDX-License-Identifier: GPL-3.0-or-later
"""The last good settings: a mistake in the file stops no delivery."""

import logging

from mailman_mta_pool.configuration.files import (
    ConfigurationError,
    read_configuration,
)
from mailman_mta_pool.configuration.loading import (
    configuration_path,
    settings_of_plugin,
    with_mta,
)
from mailman_mta_pool.settings import Settings
from public import public
from typing import Optional


log = logging.getLogger('mailman.smtp')


class _LastGood:
    """The plugin's own settings, of its file when that was last good."""

    def __init__(self) -> None:
        self._path = ''
        self._settings: Optional[Settings] = None
        # The file's text when it was last read, or why it could not be read.
        self._seen = ''

    def settings(self) -> Settings:
        path = configuration_path()
        if self._settings is None or path != self._path:
            text = read_configuration(path)
            self._settings = settings_of_plugin(path, text)
            self._path, self._seen = path, text
        else:
            self._look_again()
        return with_mta(self._settings)

    def _look_again(self) -> None:
        """Adopt a file that has changed, or log once what is wrong with it.

        The texts are compared, because an edit may leave the time and the
        size of a file as they were.
        """
        text: Optional[str] = None
        try:
            text = read_configuration(self._path)
            if text == self._seen:
                return
            settings = settings_of_plugin(self._path, text)
            self._refuse_incomplete(text)
        except ConfigurationError as error:
            seen = str(error) if text is None else text
            if seen != self._seen:
                self._seen = seen
                log.error('%s; the last good settings hold', error)
            return
        self._seen = text
        self._settings = settings
        log.info('%s has changed, and its settings are in force', self._path)

    def _refuse_incomplete(self, text: str) -> None:
        """Refuse a text that may be the first part of a longer one.

        Such a text can be valid: an empty one has all the defaults, and
        `split: 20` may be the beginning of `split: 20000`.

        :raises ConfigurationError: if it does not end with a newline.
        """
        if not text.endswith('\n'):
            raise ConfigurationError(
                self._path, 'the last line', 'has no newline at its end, so '
                'the file may be half written')


_last_good = _LastGood()


@public
def last_good_settings() -> Settings:
    """Return the settings that are in force in this process.

    The plugin's own configuration file is read each time.  A mistake that was
    made since is logged once for each change of the file, and the settings
    that were in force remain.

    :return: The settings.
    :raises ConfigurationError: if a value of [mta] is no good, or if the
        plugin's own file has a mistake, and has had it since this process
        first read it.
    """
    return _last_good.settings()
