# SPDX-License-Identifier: GPL-3.0-or-later

"""Look-ups that stock makes for each recipient, remembered, and no processes.

They say nothing about the recipient, and are most of what stock's rendering
costs; without them the same time is enough for three times as many examples.
"""

import functools
import mailman.handlers.decorate
import mailman_mta_pool.rendering.remembered

from contextlib import contextmanager, ExitStack
from mailman.archiving import mailarchive, mhonarc
from mailman.interfaces.domain import IDomainManager
from mailman.interfaces.mailinglist import IListArchiverSet
from mailman.interfaces.template import ITemplateManager
from mailman.utilities import protocols
from mailman.utilities.string import expand
from mailman_mta_pool.rendering.fetching import Answer
from public import public
from requests import HTTPError
from types import SimpleNamespace
from unittest import mock
from zope.component import getGlobalSiteManager, getUtility


class _Domains:
    """Mailman's domain manager, for domains that stay as they are."""

    def __init__(self, manager):
        self._manager = manager

    @functools.lru_cache(None)
    def __getitem__(self, mail_host):
        domain = self._manager[mail_host]
        return SimpleNamespace(
            mail_host=domain.mail_host,
            # Since Mailman 3.3.10.
            base_url=getattr(domain, 'base_url', None))


class _Templates:
    """Mailman's template manager, which alone may change templates."""

    def __init__(self, manager):
        self._manager = manager
        self._raw = {}
        self._contents = {}

    def set(self, name, context, uri):
        self._raw.clear()
        self._manager.set(name, context, uri)

    def delete(self, name, context):
        self._raw.clear()
        self._manager.delete(name, context)

    def raw(self, name, context):
        key = name, context
        if key not in self._raw:
            raw = self._manager.raw(name, context)
            self._raw[key] = raw and SimpleNamespace(uri=raw.uri)
        return self._raw[key]

    def get(self, name, context, **keywords):
        raw = self.raw(name, context)
        if raw is None:
            return None
        uri = expand(raw.uri, None, keywords)
        if uri not in self._contents:
            self._contents[uri] = self._manager.get(name, context, **keywords)
        return self._contents[uri]


def _fetch(uri, username, password):
    """Fetch a template in this process; see `fetching.fetch`.

    The time limit, for which that starts another process, is a subject of
    other tests.
    """
    try:
        return Answer(200, protocols.get(uri))
    except HTTPError as error:
        return Answer(error.response.status_code)


@functools.lru_cache(None)
def _archivers(mlist):
    return SimpleNamespace(archivers=[
        SimpleNamespace(is_enabled=archiver.is_enabled,
                        system_archiver=archiver.system_archiver)
        for archiver in IListArchiverSet(mlist).archivers])


@public
@contextmanager
def remembered():
    """Remember domains, templates and archivers for a while."""
    components = getGlobalSiteManager()
    with ExitStack() as resources:
        for wrapper, interface in (
                (_Domains, IDomainManager), (_Templates, ITemplateManager)):
            manager = getUtility(interface)
            components.registerUtility(wrapper(manager), interface)
            resources.callback(
                components.registerUtility, manager, interface)
        for module in (mailarchive, mhonarc):
            resources.enter_context(mock.patch.object(
                module, 'external_configuration',
                functools.lru_cache(None)(module.external_configuration)))
        resources.enter_context(mock.patch.object(
            mailman.handlers.decorate, 'IListArchiverSet',
            _archivers))
        resources.enter_context(mock.patch.object(
            mailman_mta_pool.rendering.remembered, 'fetch', _fetch))
        resources.callback(_archivers.cache_clear)
        yield
