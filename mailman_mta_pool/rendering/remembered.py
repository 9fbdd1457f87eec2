# SPDX-License-Identifier: GPL-3.0-or-later
"""A cache for what Mailman's callbacks look up repeatedly in one post.

Each rendering asks twelve times for the list's domain, once more for the list,
and six times for templates, most of which there are not, so that files are
looked for in two dozen places.  While a post is rendered each is asked for
once.  A template at some URI that cannot be had now is asked for once, too.
"""

import logging

from contextlib import contextmanager
from functools import cached_property
from mailman.config import config
from mailman.interfaces.cache import ICacheManager
from mailman.interfaces.domain import IDomainManager
from mailman.interfaces.listmanager import IListManager
from mailman.interfaces.mailinglist import IListArchiverSet, IMailingList
from mailman.interfaces.template import ITemplateLoader, ITemplateManager
from mailman.model.domain import Domain
from mailman.model.mailinglist import ListArchiver
from mailman.model.template import Template
from mailman.utilities.string import expand
from mailman_mta_pool.errors import TemplateUnavailable
from mailman_mta_pool.rendering.fetching import (
    Answer,
    fetch,
    is_remote,
    printable,
    reason_of,
)
from public import public
from requests import HTTPError
from sqlalchemy import or_
from typing import Any, Callable, Dict, Iterator, List, Optional, Union
from urllib.error import URLError
from zope.component import getSiteManager, getUtility
from zope.interface.registry import Components


log = logging.getLogger('mailman.http')

OK, NOT_FOUND = 200, 404


class _Remembering:
    """Wraps a utility of Mailman's, and passes on what it does not cache."""

    def __init__(self, manager: Any) -> None:
        self._manager = manager
        self._known: Dict[Any, Any] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._manager, name)


class _Lists(_Remembering):
    """See `IListManager`."""

    def __init__(self, manager: Any, mlist: Any) -> None:
        super().__init__(manager)
        self._known[mlist.list_id] = mlist

    def get_by_list_id(self, list_id: str) -> Any:
        if list_id not in self._known:
            self._known[list_id] = self._manager.get_by_list_id(list_id)
        return self._known[list_id]


class _Domains(_Remembering):
    """See `IDomainManager`."""

    def __getitem__(self, mail_host: str) -> Any:
        if mail_host not in self._known:
            # Mailman counts twice first; and it says so if there is none.
            found = config.db.store.query(Domain).filter_by(
                mail_host=mail_host).one_or_none()
            self._known[mail_host] = (
                self._manager[mail_host] if found is None else found)
        return self._known[mail_host]

    def get(self, mail_host: str, default: Any = None) -> Any:
        return self[mail_host] if mail_host in self else default

    def __contains__(self, mail_host: str) -> bool:
        return mail_host in self._known or mail_host in self._manager

    def __iter__(self) -> Iterator[Any]:
        return iter(self._manager)

    def __len__(self) -> int:
        return len(self._manager)


class _Templates(_Remembering):
    """See `ITemplateManager`.

    :ivar found: How often there was one.
    """

    found = 0

    def __init__(self, manager: Any, mlist: Any) -> None:
        super().__init__(manager)
        # Where Mailman looks for the templates of a list, in turn.
        self._contexts = mlist.list_id, mlist.mail_host, None
        # What was not found in Mailman's cache, by the URI.
        self._answers: Dict[str, Union[Answer, TemplateUnavailable]] = {}

    def raw(self, name: str, context: Optional[str]) -> Any:
        key = name, context
        if key not in self._known and context in self._contexts:
            self._look_up(name)
        if key not in self._known:
            self._known[key] = self._manager.raw(name, context)
        self.found += self._known[key] is not None
        return self._known[key]

    def _look_up(self, name: str) -> None:
        """Ask for all the contexts of the list at once."""
        found = config.db.store.query(Template).filter(
            Template.name == name, or_(
                Template.context.in_(self._contexts[:-1]),
                Template.context.is_(None))).all()
        by_context = {template.context: template for template in found}
        # If there are two for one, Mailman says what it thinks of that.
        if len(by_context) == len(found):
            for context in self._contexts:
                self._known[name, context] = by_context.get(context)

    def get(self, name: str, context: Optional[str], **kws: Any) -> Any:
        template = self.raw(name, context)
        if template is None:
            return None
        uri = expand(template.uri, None, kws)
        try:
            if is_remote(uri) and getUtility(ICacheManager).get(uri) is None:
                return self._fetch(uri, template)
            return self._manager.get(name, context, **kws)
        except (HTTPError, URLError):
            # No such template.  The loader tries the next context.
            raise
        except (OSError, UnicodeError) as error:
            raise TemplateUnavailable(
                printable(uri), reason_of(error)) from error

    def _fetch(self, uri: str, template: Any) -> str:
        """Return the text at a URI, or what Mailman makes of a refusal.

        :raises HTTPError: if there is none for us.
        :raises TemplateUnavailable: if it cannot be had now.
        """
        if uri not in self._answers:
            self._answers[uri] = self._ask(
                uri, template.username, template.password)
        answer = self._answers[uri]
        if isinstance(answer, TemplateUnavailable):
            raise answer
        if answer.status not in (OK, NOT_FOUND):
            raise HTTPError(f'status {answer.status}')
        return answer.text

    def _ask(self, uri: str, username: Optional[str], password: Optional[str],
             ) -> Union[Answer, TemplateUnavailable]:
        # No lock is held meanwhile, and nothing but the cache's entry is
        # undone if that cannot be written.
        config.db.commit()
        try:
            answer = fetch(uri, username, password)
            if answer.status == OK:
                getUtility(ICacheManager).add(uri, answer.text)
            else:
                log.error('Cannot retrieve template at %s: status %d',
                          printable(uri), answer.status)
        except TemplateUnavailable as error:
            return error
        except OSError:
            config.db.abort()
            raise
        return answer


class _Loader(_Remembering):
    """See `ITemplateLoader`.

    Where no template has been set, Mailman looks for a file in a dozen places.
    """

    def __init__(self, manager: Any, templates: _Templates) -> None:
        super().__init__(manager)
        self._templates = templates

    def get(self, name: str, context: Any = None, **kws: Any) -> Any:
        key = name, context, kws.get('language')
        if key in self._known:
            return self._known[key]
        found = self._templates.found
        text = self._manager.get(name, context, **kws)
        if self._templates.found == found:
            self._known[key] = text
        return text


class _Archiver(_Remembering):
    """See `IListArchiver`.

    Mailman's makes every archiver of the site anew, and reads its
    configuration file, whenever it is asked for one.
    """

    def __init__(self, manager: Any, system_archivers: Dict[str, Any]) -> None:
        super().__init__(manager)
        self._system_archivers = system_archivers

    @property
    def system_archiver(self) -> Any:
        known = self._system_archivers.get(self._manager.name)
        return self._manager.system_archiver if known is None else known

    @property
    def is_enabled(self) -> bool:
        # Mailman's, which asks us for the system archiver.
        return ListArchiver.is_enabled.fget(self)


class _Archivers:
    """See `IListArchiverSet`.

    Mailman's asks for each archiver of the site whether the list has it.
    """

    def __init__(self, mlist: Any, mailmans: Callable[[], Any]) -> None:
        """Prepare.

        :param mlist: The mailing list.
        :param mailmans: What makes Mailman's set.
        """
        self._mlist = mlist
        self._mailmans = mailmans

    def get(self, archiver_name: str) -> Any:
        return self._mailmans().get(archiver_name)

    @cached_property
    def archivers(self) -> List[Any]:
        system = {archiver.name: archiver for archiver in config.archivers}
        found = config.db.store.query(ListArchiver).filter(
            ListArchiver.mailing_list == self._mlist).all()
        if not {archiver.name for archiver in found}.issuperset(system):
            # Mailman's adds what the list has not.
            found = self._mailmans().archivers
        return [_Archiver(archiver, system) for archiver in found]


@public
class Memory:
    """The cache of one post."""

    def __init__(self, mlist: Any) -> None:
        """Begin with nothing.

        :param mlist: The mailing list.
        """
        self._base = getSiteManager()
        self._archivers: Dict[int, _Archivers] = {}
        self._registry = Components('remembered', bases=(self._base,))
        self._registry.registerUtility(
            _Lists(getUtility(IListManager), mlist), IListManager)
        self._registry.registerUtility(
            _Domains(getUtility(IDomainManager)), IDomainManager)
        templates = _Templates(getUtility(ITemplateManager), mlist)
        self._registry.registerUtility(templates, ITemplateManager)
        self._registry.registerUtility(
            _Loader(getUtility(ITemplateLoader), templates), ITemplateLoader)
        self._registry.registerAdapter(
            self._archivers_of, (IMailingList,), IListArchiverSet)

    def _archivers_of(self, mlist: Any) -> _Archivers:
        if mlist.id not in self._archivers:
            self._archivers[mlist.id] = _Archivers(
                mlist, lambda: self._base.getAdapter(mlist, IListArchiverSet))
        return self._archivers[mlist.id]

    def in_use(self) -> Any:
        """Let Mailman's utilities remember, for the time of the context."""
        return instead(self._registry)


@public
@contextmanager
def instead(registry: Components) -> Iterator[None]:
    """Let Mailman ask this registry, for a while.

    Only this thread renders, and the others look up nothing that differs.

    :param registry: One that is based on the registry that is in use now.
    """
    before = getSiteManager.sethook(lambda context=None: registry)
    try:
        yield
    finally:
        getSiteManager.sethook(before)
