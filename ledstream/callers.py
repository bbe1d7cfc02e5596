"""Who may call, as the settings say; apart from the server, so that who starts one can look at them before."""

from __future__ import annotations

from ipaddress import ip_address

from ledstream.settings import Settings, SettingsError
from serving.collector.origins import Origins
from serving.collector.sites import Sites


def sites(settings: Settings) -> Sites:
    """Keys. Raises SettingsError."""
    try:
        return Sites.of(settings.write_keys, settings.admin_key, is_local=is_loopback(settings.host))
    except ValueError as error:
        raise SettingsError(f"LEDSTREAM_WRITE_KEYS, LEDSTREAM_ADMIN_KEY: {error}") from None


def origins(settings: Settings) -> Origins:
    """Whose pages. Raises SettingsError."""
    try:
        return Origins.of(settings.cors_origins)
    except ValueError as error:
        raise SettingsError(f"LEDSTREAM_CORS_ORIGINS: {error}") from None


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the address."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
