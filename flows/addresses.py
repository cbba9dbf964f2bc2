"""Addresses of servers, databases and remotes as they can be shown: without user, password, query and fragment.

Each address is parsed by the library that will use it: httpx, SQLAlchemy, or the standard library.
"""

import re
from typing import Any
from urllib.parse import urlsplit

from tasks.errors import InputError

HIDDEN = "***"
"""The text that replaces a secret."""

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,40}")


def without_password(address: str) -> str:
    """Returns scheme, host, port and path (or database) of `address`; `***` for parts that cannot be separated.

    The result is shown only if the library that will use the address (1) finds the same place in the result and
    (2) finds no user, password, query or fragment there. The check is necessary because a `/` or `@` in a password that
    is not percent-encoded makes a library find another place than the user meant.
    """
    scheme, separator, rest = address.partition("://")
    if address == "databricks":
        return address
    if not separator or not _SCHEME.fullmatch(scheme):
        return HIDDEN
    place = _place(address)
    if place is not None:
        file = [rest] if scheme.startswith("sqlite") else []  # a file's path can hold an @
        for start in (rest.rpartition("@")[2], *file):
            shown = f"{scheme}://{re.split('[?#]', start, maxsplit=1)[0]}"
            if shown.isprintable() and _place(shown) == place and not _extras(shown):
                return shown
    return f"{scheme}://{HIDDEN}"


def check_readable(name: str, address: str, example: str) -> None:
    """Raises InputError if the library that will use `address`, the value of the setting `name`, cannot read it."""
    if "://" not in address and address != "databricks" and not re.match("(sqlite|file):", address):
        scheme = example.partition("://")[0]
        raise InputError(f"{name} must be an address like {example}, got one without {scheme}:// in front")
    if HIDDEN in without_password(address) and "://" in address:
        raise InputError(
            f"{name} must be an address like {example}, got {without_password(address)}, which cannot be read: is its "
            "port a number, and are / @ : ? # in its password percent-encoded (/ is %2F)?"
        )


def _place(address: str) -> tuple[Any, ...] | None:
    """Returns host, port and path or database as the library finds them in the address; None if it cannot read it."""
    try:
        if address.startswith(("http:", "https:")):
            import httpx

            url = httpx.URL(address)
            return (url.host, url.port, url.path) if url.host else None
        if _is_database(address):
            from sqlalchemy import make_url

            database = make_url(address)
            return database.host, database.port, database.database
        split = urlsplit(address)
        return split.hostname, split.port, split.path
    except Exception:  # each parser has its own errors; all mean that it cannot read the address
        return None


def _extras(address: str) -> bool:
    """Returns whether the library finds a user, a password, a query or a fragment in the address."""
    if address.startswith(("http:", "https:")):
        import httpx

        url = httpx.URL(address)
        return bool(url.userinfo or url.query or url.fragment)
    if _is_database(address):
        from sqlalchemy import make_url

        database = make_url(address)
        return bool(database.username or database.password or database.query)
    split = urlsplit(address)
    return bool(split.username or split.password or split.query or split.fragment)


def _is_database(address: str) -> bool:
    return bool(re.match(r"(sqlite|postgresql|postgres|mysql|mssql|oracle|mariadb)(\+\w+)?:", address))
