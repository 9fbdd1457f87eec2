# SPDX-License-Identifier: GPL-3.0-or-later

"""A site that signs what goes out with ARC."""

import os
import mailman.handlers.arc_sign

from contextlib import contextmanager
from mailman.config import config
from public import public
from unittest import mock


# Generated for these tests; it signs for nobody.
KEY = """\
-----BEGIN RSA PRIVATE KEY-----
MIICXAIBAAKBgQC9dtHXJi7iSIW558n5J/3/1ppSfagt+KrBDHqTf/InFoyy/ZRI
vw45bdmTIPX5jNrALVS1p6F1wp5xgxkC/T/7a2vDdbVUwxn/ulCPlRR/O3S51OvB
MNfaO5Nego0ZegQCRRnMLfCXCPuZt9eLSTaxco48eyrXLk0VpZUv3W4qNwIDAQAB
AoGADK6+fzt0Gfumz/n/ICmYLB8Od4Un0+P4cjHGpscCy7ELvBOTcIcxiZCb5uhm
7syJ/CFMsVhGS566gni3HOcc+DbcVPcRdR74xqxzlx1t3b3G1T/wWsV7iFppDJHr
9kylxO+tAudKQ1XoJvrJlhyMyzG7L1NPIxuwgKTGl4D4iYECQQD21kgyxmIqGMjS
5v5M9wk63qgQ7PNrCMLah0rLDTu0i7E3TxQjENNYfQTPcqVwv50qD91KXK5EZ4Po
ch3Uvxj3AkEAxH9RKiqiCzXBA9+zprVY2JR+BqiwmuaeH1EceLzVZCGRc3Kv2vSe
ZCN/Uft1J9UaUkZoJfuX6dxyU/gMDIhowQJAbA23w0pm1IjO+MwXzHdj+fpYVjh0
AonuSp1pF2Qum8V/CXg7l3IZIqZvwaQtWiL3WN9i/td9jgJGky3Jc0VIVwJALG/y
hguwK8LTTLH5adkXJ5ulSJI7pjxDRCfOvYtO4t8oiqhEFss9Sr4wW/T3ELQDyNl9
UiGswEmHXW/6IZdzwQJBANNtWWcvfwUyFRRAhaJC0cR+yOCIBFtC5Nya3uhkLmMD
rmnjTFplTHgtn+aSc4S5/cVDicJyzmHqM2Eg7oxWZWo=
-----END RSA PRIVATE KEY-----
"""
SECTION = """
[ARC]
enabled: yes
authserv_id: lists.example.org
selector: dummy
domain: example.org
sig_headers: mime-version, date, from, to, subject
privkey: {}
"""


@public
@contextmanager
def signing():
    """Let Mailman sign, at an hour that is always the same.

    `config.arc_enabled` then switches it off and on again.
    """
    path = os.path.join(config.VAR_DIR, 'arc.key')
    with open(path, 'w', encoding='ascii') as fp:
        fp.write(KEY)
    config.push('arc', SECTION.format(path))
    try:
        with mock.patch.object(
                mailman.handlers.arc_sign, 'timestamp', '12345'):
            yield
    finally:
        config.pop('arc')
