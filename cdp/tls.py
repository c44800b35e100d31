"""What the daemon is told about TLS."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from pathlib import Path

from cdp.errors import Invalid


class Tls(enum.StrEnum):
    """`cdp serve --tls`."""

    OFF = "off"
    ON = "on"
    REQUIRE = "require"


def tls_mode(text: str) -> Tls:
    """Invalid if it is none."""
    try:
        return Tls(text)
    except ValueError:
        raise Invalid(f"{text[:200]!r} is no mode of TLS: off, on or require") from None


@dataclass(frozen=True, slots=True)
class TlsSettings:
    """PEM files, and the rules of `cdp.access`."""

    mode: Tls = Tls.OFF
    certificate: Path | None = None
    key: Path | None = None
    client_ca: Path | None = None
    access: Path | None = None

    def check(self) -> None:
        """Invalid if these do not go together."""
        if self.mode is Tls.OFF:
            if self.certificate or self.key or self.client_ca or self.access:
                raise Invalid("there are files for TLS, but it is off: --tls on or --tls require (mode in [tls])")
        elif self.certificate is None or self.key is None:
            raise Invalid(f"--tls {self.mode} needs --tls-cert and --tls-key (certificate and key in [tls])")
        elif self.access is not None and self.client_ca is None:
            raise Invalid(
                "--tls-access needs --tls-client-ca (access and client_ca in [tls]): without certificates nobody knows who a client is"
            )

    def with_options(
        self,
        mode: str | None,
        certificate: Path | None,
        key: Path | None,
        client_ca: Path | None,
        access: Path | None,
    ) -> TlsSettings:
        """What options change. `off` also takes back the files. Invalid if `mode` is none."""
        chosen = self.mode if mode is None else tls_mode(mode)
        said = TlsSettings() if mode is not None and chosen is Tls.OFF else self
        return TlsSettings(
            chosen,
            certificate or said.certificate,
            key or said.key,
            client_ca or said.client_ca,
            access or said.access,
        )

    @property
    def keeps_strangers_out(self) -> bool:
        """Whether TCP clients get in only with a certificate."""
        return self.mode is Tls.REQUIRE and self.client_ca is not None
