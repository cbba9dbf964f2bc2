"""Addresses of servers, databases and remotes as they may be shown: without user, password, query and fragment.

An address is read as the library that will use it reads it: httpx, SQLAlchemy, or the standard library.
"""

import re
from typing import Any
from urllib.parse import urlsplit

from tasks.errors import InputError

HIDDEN = "***"
"""Stands for what must not be shown."""

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,40}")


def without_password(address: str) -> str:
    """Returns scheme, host, port and path (or database) of `address`; `***` for parts that cannot be separated.

    The library that will use the address must read the same place in the result, and no user and no query. A password
    with a `/` or `@` that should have been encoded makes a library read another place than the user meant.
    """
    scheme, separator, rest = address.partition("://")
    if address == "databricks":
        return address
    if not separator or not _SCHEME.fullmatch(scheme):
        return HIDDEN
    place = _place(address)
    if place is not None:
        file = [rest] if scheme.startswith("sqlite") else []  # may hold an @
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
    """Returns host, port and path or database, as the library that uses the address reads them; None: it cannot."""
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
    except Exception:  # each parser has errors of its own; whichever it raises, it cannot read the address
        return None


def _extras(address: str) -> bool:
    """Returns whether the library finds more than a place in the address."""
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
