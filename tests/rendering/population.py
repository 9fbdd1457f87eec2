# SPDX-License-Identifier: GPL-3.0-or-later

"""A list whose members are odd in every way that Mailman allows."""

from mailman.app.lifecycle import create_list
from mailman.database.transaction import transaction
from mailman.interfaces.languages import ILanguageManager
from mailman.interfaces.member import MemberRole
from mailman.interfaces.usermanager import IUserManager
from mailman.utilities.datetime import now
from public import public
from zope.component import getUtility


#: Names that people have, or that somebody typed.
NAMES = (
    'Anne Person', '', 'Bart "the \\ Barber" O\'Neil', 'Cris, Person',
    'Zoë Müller', 'Łukasz Żółć', 'Анна Каренина', '山田太郎', 'Ελένη',
    'عائشة', 'Dino 🦖', '.leading dot', '..', 'From Somebody', ' ', '\t',
    ' both ends ', 'a\nb', 'c\rd', 'e\x85f', 'line\u2028sep', 'g\x0bh',
    'Ünïcödé ' * 12, 'Long ' * 30, 'L' * 200, 'x=20y=', '=?utf-8?q?=C3=A9?=',
    '$user_email', '${member}', '%s {0} \\1', '<b>', 'a@b.example', '1', '-- ',
    'tab\tbed', '>From', 'soft\u00adhyphen', '\ufeffbom', 'ｶﾀｶﾅ', '你好',
    '\x00nul', '\x7f', 'ÿ', '„quotes“', '€', '=', '?=', 'trailing =',
    )

#: Language codes that Mailman has not, with charsets that are hard work.
LANGUAGES = {
    'xk': ('koi8-r', 'Русский'),
    'xj': ('iso-2022-jp', 'Japanese by mail'),
    'xb': ('big5', 'Chinese'),
    'xs': ('shift_jis', 'Japanese'),
    'xw': ('windows-1252', 'Western'),
    'xn': ('no-such-charset', 'None'),
    'x9': ('iso-8859-15', 'Français'),
    }
DOMAINS = ('example.com', 'example.org', 'a.example.net', 'EXAMPLE.com')


@public
def add_languages():
    """Add languages of this module, but for those that are there."""
    manager = getUtility(ILanguageManager)
    for code, (charset, description) in LANGUAGES.items():
        if code not in manager:
            manager.add(code, charset, description)


@public
class Population:
    """A mailing list and the addresses that posts to it go to.

    :ivar mlist: The list.
    :ivar recipients: Addresses of members and of others.
    :ivar wild: Addresses of two members whose names may be set.
    """

    def __init__(self, names=NAMES):
        self._users = getUtility(IUserManager)
        add_languages()
        with transaction():
            self.mlist = create_list('ant@example.com')
            # Nobody reads these, and they take most of the time.
            self.mlist.send_welcome_message = False
            self.recipients = []
            for number, name in enumerate(names):
                self.recipients.append(self._add(number, name))
            self.wild = (
                self._add(1000, ''), self._add(1001, ''))
            self.recipients += self._others()

    def _add(self, number, name):
        """Subscribe somebody, in one of several ways."""
        email = f'Member.{number}@{DOMAINS[number % len(DOMAINS)]}'
        if number % 2 == 0:
            email = email.lower()
        subscribe = (
            self._by_address, self._by_preferred_address,
            self._by_address_of_user, self._by_both,
            self._by_address_alone)[number % 5]
        member = subscribe(email, name)
        self._choose_languages(number, member)
        # Mailman's rosters and handlers have them in lower case.
        return member.address.email

    def _choose_languages(self, number, member):
        if number % 3 == 0:
            member.preferences.preferred_language = 'fr'
        if number % 4 == 0:
            member.address.preferences.preferred_language = 'xk'
        if number % 5 < 3 and number % 2 == 0:
            member.address.user.preferences.preferred_language = 'ja'

    def _user_with(self, email, address_name, user_name):
        user = self._users.create_user(email, address_name)
        user.display_name = user_name
        address = list(user.addresses)[0]
        address.verified_on = now()
        return user, address

    def _by_address(self, email, name):
        """The name is the address's, and the user has another."""
        user, address = self._user_with(email, name, 'User of ' + name)
        return self.mlist.subscribe(address)

    def _by_preferred_address(self, email, name):
        """The name is the user's, and the address has another."""
        user, address = self._user_with(email, 'Address of ' + name, name)
        user.preferred_address = address
        return self.mlist.subscribe(user)

    def _by_address_of_user(self, email, name):
        """The name is the user's, and the address has none."""
        user, address = self._user_with(email, '', name)
        return self.mlist.subscribe(address)

    def _by_both(self, email, name):
        """Both subscriptions at once; the explicit one counts."""
        user, address = self._user_with(email, name, 'Not ' + name)
        user.preferred_address = address
        preferred = self.mlist.subscribe(user)
        preferred.preferences.preferred_language = 'it'
        return self.mlist.subscribe(address)

    def _by_address_alone(self, email, name):
        """There is no user."""
        return self.mlist.subscribe(self._users.create_address(email, name))

    def _others(self):
        """Addresses to which posts may go although no member has them."""
        self.mlist.subscribe(
            self._users.create_address('nonmember@example.com', 'Nonny'),
            MemberRole.nonmember)
        self.mlist.subscribe(
            self._users.create_address('owner@example.com', 'Olly'),
            MemberRole.owner)
        self._users.create_user('user@example.com', 'Una Ünger')
        self._users.create_user('nameless@example.com', None)
        self._users.create_address('address@example.com', 'Ada')
        return [
            'nonmember@example.com', 'owner@example.com', 'user@example.com',
            'nameless@example.com', 'address@example.com', 'USER@Example.com',
            'stranger@example.com', 'Stranger@Example.COM', 'localpart',
            '"quoted local"@example.com', 'o\'neil+tag=x@example.com',
            '.dot@example.com', 'jürgen@example.com', 'ж@пример.example',
            'two@at@example.com', '{brace}@example.com', '$domain@example.com',
            'archive@mail-archive.dev', 'x' * 120 + '@example.com',
            ]

    def name_the_wild(self, address_name, user_name):
        """Give the two wild members their names."""
        for email in self.wild:
            address = self._users.get_address(email)
            address.display_name = address_name
            if address.user is not None:
                address.user.display_name = user_name
