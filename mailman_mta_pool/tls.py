# SPDX-License-Identifier: GPL-3.0-or-later
"""Connections with TLS, from the start or by STARTTLS."""

import ssl

from mailman_mta_pool.connection import SMTPConnection
from mailman_mta_pool.settings import WireSettings
from mailman_mta_pool.wire.lessons import Lessons
from public import public
from typing import Optional


class _TLSConnection(SMTPConnection):
    def __init__(self, host: str, port: int, sessions_per_connection: int,
                 verify_cert: bool = True, verify_hostname: bool = True,
                 smtp_user: Optional[str] = None,
                 smtp_pass: Optional[str] = None, *,
                 wire: WireSettings = WireSettings(),
                 lessons: Optional[Lessons] = None) -> None:
        """Prepare a connection; nothing is opened before the first message.

        :param verify_cert: Must the server have a certificate that one of
            the system's certification authorities has signed?
        :param verify_hostname: Must that certificate be for this host
            (RFC 6125)?  It means nothing unless `verify_cert` is true.

        The others are those of `SMTPConnection`.
        """
        super().__init__(
            host, port, sessions_per_connection, smtp_user, smtp_pass,
            wire=wire, lessons=lessons)
        self.verify_cert = verify_cert
        self.verify_hostname = verify_hostname and verify_cert
        context = ssl.create_default_context()
        context.check_hostname = self.verify_hostname
        context.verify_mode = (
            ssl.CERT_REQUIRED if verify_cert else ssl.CERT_NONE)
        self._context = context


@public
class SMTPSConnection(_TLSConnection):
    """A connection that is TLS from the start (RFC 8314, section 3.3)."""

    def _implicit_tls(self) -> Optional[ssl.SSLContext]:
        return self._context


@public
class STARTTLSConnection(_TLSConnection):
    """A connection that turns to TLS at once, or is given up (RFC 3207)."""

    def _starttls(self) -> Optional[ssl.SSLContext]:
        return self._context
