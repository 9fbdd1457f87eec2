# SPDX-License-Identifier: GPL-3.0-or-later
"""The table of files in docs/security.rst is what a real site has."""

import re
import stat

from fnmatch import fnmatchcase
from tests.fault.login import refusing
from tests.fault.relays import relay, sections
from tests.operate.gated import Gated
from tests.scripted import Scripted
from tests.site_case import SiteTestCase
from tests.test_security import DOCUMENT


# A row that begins a file or, with a slash at its end, a directory.
ROW = re.compile(r'^``([\w*./-]+)``\s+(0\d{3})\s', re.MULTILINE)
PASSWORD = 'Tr0mbone-Zebra'


def rows():
    """The patterns of the table, the more particular ones first."""
    return [(name, int(mode, 8)) for name, mode in ROW.findall(DOCUMENT)]


def row_of(name, table):
    """The row of a file: as many parts, each of which matches."""
    for pattern, mode in table:
        if pattern.count('/') == name.count('/') and all(
                map(fnmatchcase, name.split('/'), pattern.split('/'))):
            return pattern, mode
    return None


class TestFiles(SiteTestCase):
    def setUp(self):
        super().setUp()
        self.rows = rows()
        self.seen = set()

    def look(self, site):
        """Compare all files that there are with the table."""
        top = site.var / 'mta_pool'
        for path in (top, *top.rglob('*')):
            name = path.relative_to(site.var).as_posix()
            name += '/' * path.is_dir()
            with self.subTest(name):
                row = row_of(name, self.rows)
                self.assertIsNotNone(row, 'no row of the table')
                self.seen.add(row[0])
                self.assertEqual(
                    stat.S_IMODE(path.stat().st_mode), row[1], row)

    def test_each_file_and_mode(self):
        self.assertGreater(len(self.rows), 12)
        server = self.use(Gated())
        refused = self.use(Scripted(
            refusing(), extensions=('PIPELINING', 'AUTH PLAIN')))
        site = self.site(settings=sections(
            good=relay(server, max_connections=2, priority=20,
                       message_rate='1000/second'),
            bad=relay(refused, user='ant', password=PASSWORD)))
        site.post(verp=True)
        with site.runner():
            site.wait_for(lambda: server.is_holding, 'the delivery')
            self.look(site)
            server.let_all()
            site.wait_until_empty()
        self.look(site)
        self.assertEqual(self.seen, {name for name, _ in self.rows})

    def test_what_others_may_read(self):
        textfile, page = 'site.prom', 'site.html'
        server = self.use(Scripted())
        site = self.site()
        site.set_up(server, settings={
            'metrics': {'textfile': site.directory / textfile}})
        site.run({'verp': True})
        site.mailman('mta-pool', 'report', '--html', site.directory / page)
        for name in textfile, page:
            path = site.directory / name
            with self.subTest(name):
                self.assertEqual(stat.S_IMODE(path.stat().st_mode), 0o644)
                text = path.read_text('utf-8')
                for member in site.members:
                    self.assertNotIn(member, text)
