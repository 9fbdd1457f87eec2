# SPDX-License-Identifier: GPL-3.0-or-later
"""Stand-ins for what Mailman's callbacks look up while values are marked."""

from contextlib import contextmanager
from mailman.interfaces.template import ITemplateManager
from mailman.interfaces.usermanager import IUserManager
from mailman_mta_pool.rendering.marks import Unspliceable
from mailman_mta_pool.rendering.members import MemberValues, Values
from mailman_mta_pool.rendering.remembered import instead
from public import public
from string import Template
from types import SimpleNamespace
from typing import Any, Iterator, Optional
from zope.component import getSiteManager, getUtility
from zope.interface.registry import Components


# The placeholders of Mailman's decorate handler that tell something of the
# member.
PERSONAL = frozenset([
    'member', 'user_address', 'user_delivered_to', 'user_email',
    'user_language', 'user_name', 'user_name_or_address',
    'user_name_or_email'])


class _Known(SimpleNamespace):
    """Something of which we know what Mailman's own callbacks ask.

    A site's callback may ask for anything.
    """

    def __getattr__(self, name: str) -> Any:
        if name.startswith('__'):
            # Python's own, and zope.interface's.
            raise AttributeError(name)
        raise Unspliceable(f'a callback asks for {name}')


@public
def member_like(values: Optional[MemberValues]) -> Any:
    """Return what the decorate handler asks of a member, or None."""
    if values is None:
        return None
    return _Known(
        _address=_Known(
            display_name=values.address_name,
            email=values.email,
            original_email=values.original_email),
        display_name=values.name,
        preferred_language=_Known(description=values.language))


class _Users(_Known):
    """Knows one user."""

    def __init__(self, values: Values) -> None:
        super().__init__()
        self._name = values.user_name

    def get_user(self, email: str) -> Any:
        if self._name is None:
            return None
        return _Known(display_name=self._name)


class _Templates:
    """Mailman's template manager, for templates that are alike for all."""

    def __init__(self, manager: Any) -> None:
        self._manager = manager

    def get(self, name: str, context: Any, **keywords: Any) -> Any:
        raw = self._manager.raw(name, context)
        if raw is not None and any(
                PERSONAL.intersection(match.groups())
                for match in Template.pattern.finditer(raw.uri)):
            raise Unspliceable('the URI of a template depends on the member')
        return self._manager.get(name, context, **keywords)


@public
@contextmanager
def stand_ins(values: Values) -> Iterator[None]:
    """Let Mailman's utilities answer for a recipient with marked values.

    :param values: The marked values.
    """
    local = Components('marked', bases=(getSiteManager(),))
    local.registerUtility(
        _Templates(getUtility(ITemplateManager)), ITemplateManager)
    local.registerUtility(_Users(values), IUserManager)
    with instead(local):
        yield
