# SPDX-License-Identifier: GPL-3.0-or-later
"""The plugin: components are registered here, and nothing is opened."""

import sys

from mailman.interfaces.plugin import IPlugin
from mailman_mta_pool.configuration import ConfigurationError
from mailman_mta_pool.relays.factories import factory_for, register
from mailman_mta_pool.settings import load
from public import public
from zope.interface import implementer


@public
@implementer(IPlugin)
class MTAPoolPlugin:
    """See `IPlugin`."""

    #: No REST resource.
    resource = None

    def pre_hook(self) -> None:
        """See `IPlugin`.

        It checks the configuration, in every Mailman process and command, and
        ends it with one line if something is wrong.
        """
        register()
        try:
            load()
        except ConfigurationError as error:
            sys.exit(f'mailman_mta_pool: {error}')

    def post_hook(self) -> None:
        """See `IPlugin`.

        By now every plugin has had its chance to register a factory.
        """
        try:
            factory_for(load().relay)
        except ConfigurationError as error:
            sys.exit(f'mailman_mta_pool: {error}')
