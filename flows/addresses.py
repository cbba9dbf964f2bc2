"""Addresses of servers, databases and remotes without what is secret in them, in all that is shown.

Two things are shown: an address, and what a library says. An address is shown as the library that uses it reads it,
without user, password, query and fragment. Libraries quote addresses in their errors, whole or in parts, decoded or
encoded anew: so what is secret in every address that is in use is taken out of every text.
"""

import logging
import os
import re
import sys
from collections.abc import Iterable, Iterator
from functools import lru_cache
from types import TracebackType
from typing import Any
from urllib.parse import unquote, unquote_plus, urlsplit

from tasks.errors import InputError

HIDDEN = "***"

_SHORTEST = 4
"""Characters of what is taken out of texts: less than that stands by chance in many words."""
_LONGEST_LINE = 300
_READ_BY = ("MLFLOW_", "PREFECT_", "DVC_", "AWS_", "AZURE_", "DATABRICKS_", "GOOGLE_")
_SECRET_NAME = re.compile(r"pass|secret|token|key|connection_string|auth_string|header|ticket", re.IGNORECASE)
_NO_SECRET = re.compile(
    # What a database's address may say of TLS and text, and a host: a message without them would be hard to read.
    r"true|false|none|null|disable|allow|prefer|require|verify-ca|verify-full|utf8(mb4)?|localhost|\d+(\.\d+){3}",
    re.IGNORECASE,
)
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,40}")
_OPTION = re.compile(r"^\s*([\w-]+)\s*=\s*(.*?)\s*$", re.MULTILINE)
_HOST_AND_PORT = re.compile(r"[a-z0-9.-]+:\d{2,5}(/[a-z0-9/._-]*)?")
_SEPARATORS = re.compile(r"[\s@/:?#&;=\[\]{}]+")
_PLAIN_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,19}")

_known: set[tuple[str, bool]] = set()
"""What was in use in this process beside the environment: a text, and whether it is an address."""


def without_password(address: str) -> str:
    """Returns scheme, host, port and path (or database) of `address`; `***` for what cannot be told apart.

    The library that will use the address must read the same place in what is returned, and no user and no query: an
    address whose password holds a `/` or `@` that should have been encoded is read in another way than it was meant.
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
    """Raises InputError if the library that will use `address`, given by the setting `name`, cannot read it."""
    if "://" not in address and address != "databricks" and not re.match("(sqlite|file):", address):
        scheme = example.partition("://")[0]
        raise InputError(f"{name} must be an address like {example}, got one without {scheme}:// in front")
    if HIDDEN in without_password(address) and "://" in address:
        raise InputError(
            f"{name} must be an address like {example}, got {without_password(address)}, which cannot be read: is its "
            "port a number, and are / @ : ? # in its password percent-encoded (/ is %2F)?"
        )


def remember_addresses(*addresses: str) -> None:
    """Keeps in mind that these addresses are in use: what is secret in them is taken out of every text from now on."""
    _known.update((address, True) for address in addresses if address)


def remember_secrets(*secrets: str) -> None:
    """Keeps these passwords and tokens in mind, as `remember` does addresses."""
    _known.update((secret, False) for secret in secrets if secret)


def remember_config(text: str) -> None:
    """Keeps in mind what a DVC configuration holds, also one that DVC will refuse and quote."""
    for name, value in _OPTION.findall(text):
        for spelled in (value, value.partition(" #")[0].rstrip()):
            _known.update(_named(name, spelled.strip("'\"")))


def without_secrets(text: str) -> str:
    """Returns `text` with every known address shown by `without_password`, and no secret of one left in it.

    Known are the addresses and passwords of MLflow, Prefect, DVC and proxies in the environment, and what was
    remembered. A secret of less than four characters stays.
    """
    # An empty value, as of a variable that was taken back, stands between any two characters.
    known = frozenset(each for each in _known.union(_environment()) if len(each[0]) >= _SHORTEST)
    if not known or not text:
        return text
    addresses, patterns = _compiled(known)
    for address, shown in addresses:
        text = text.replace(address, shown)
    for pattern in patterns:
        text = pattern.sub(HIDDEN, text)
    return text


def safe_line(exc: BaseException) -> str:
    """Returns what a library's error says, in one line without secrets."""
    text = str(exc).strip() or type(exc).__name__
    if "Max retries exceeded" in text:
        return "it does not answer"
    # SQLAlchemy may say first what it was about to do. Scrubbed as a whole: a password may hold the end of a line.
    lines = [line for line in without_secrets(text).splitlines() if line and not line.startswith("(raised as a result")]
    return " ".join((lines or [type(exc).__name__])[0].split())[:_LONGEST_LINE]


def safe_text(exc: BaseException) -> str:
    """Returns all that a library's error says, as one line without secrets."""
    return " ".join(without_secrets(str(exc) or type(exc).__name__).split())


def guard() -> None:
    """Takes the secrets out of every log record and of the traceback of an error of ours, from now on."""
    if logging.getLogRecordFactory() is not _record:
        logging.setLogRecordFactory(_record)
    if sys.excepthook is not _excepthook:
        sys.excepthook = _excepthook


class _Record(logging.LogRecord):
    """A record that no handler, ours, Prefect's or another library's, gets a secret from."""

    def getMessage(self) -> str:  # noqa: N802 - logging's name
        return without_secrets(super().getMessage())


def _record(*arguments: Any, **named: Any) -> logging.LogRecord:
    record = _Record(*arguments, **named)
    if record.exc_info and record.exc_info[0] is not None and (_known or any(_environment())):
        record.exc_text = without_secrets(
            logging.Formatter().formatException(record.exc_info)
        )  # what formatters take first
    return record


def _excepthook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    print(without_secrets(logging.Formatter().formatException((kind, error, trace))), file=sys.stderr)


def _environment() -> Iterator[tuple[str, bool]]:
    for name, value in os.environ.items():
        if name.startswith(_READ_BY) or (name.upper().endswith("_PROXY") and "@" in value):
            yield from _named(name, value)


def _named(name: str, value: str) -> Iterator[tuple[str, bool]]:
    """Yields what is secret in an environment variable or a DVC option of this name."""
    if "://" in value or name.upper().endswith(("_URI", "_URL", "_PROXY")) or name == "url":
        yield value, True
    elif _SECRET_NAME.search(name) and not _NO_SECRET.fullmatch(value):
        yield value, False
        parts = re.findall(r':\s*"([^"]+)"', value)  # of the JSON of HEADERS
        yield from ((part, False) for part in (*parts, value.partition(":")[2] if name.endswith("AUTH_STRING") else ""))


def _place(address: str) -> tuple[Any, ...] | None:
    """Returns host, port and path or database, as the library that uses the address reads them; None: it does not."""
    try:
        if address.startswith(("http:", "https:")):
            import httpx

            url = httpx.URL(address)
            return (url.host, url.port, url.path) if url.host else None
        if _is_database(address):
            from sqlalchemy import make_url

            made = make_url(address)
            return made.host, made.port, made.database
        split = urlsplit(address)
        return split.hostname, split.port, split.path
    except Exception:  # whatever its parser raises: it is only asked whether it reads it
        return None


def _extras(address: str) -> bool:
    """Returns whether the library finds more than a place in the address."""
    if address.startswith(("http:", "https:")):
        import httpx

        url = httpx.URL(address)
        return bool(url.userinfo or url.query or url.fragment)
    if _is_database(address):
        from sqlalchemy import make_url

        made = make_url(address)
        return bool(made.username or made.password or made.query)
    split = urlsplit(address)
    return bool(split.username or split.password or split.query or split.fragment)


def _is_database(address: str) -> bool:
    return bool(re.match(r"(sqlite|postgresql|postgres|mysql|mssql|oracle|mariadb)(\+\w+)?:", address))


@lru_cache(maxsize=8)
def _compiled(known: frozenset[tuple[str, bool]]) -> tuple[list[tuple[str, str]], list[re.Pattern[str]]]:
    """Returns the addresses to replace, and patterns of all secrets, the longest first."""
    addresses = {text for text, is_address in known if is_address}
    whole, words = {text for text, is_address in known if not is_address}, set[str]()
    for address in addresses:
        one, other = _secrets(address)
        whole, words = whole | one, words | other
    quoted = {each: without_password(each) for address in addresses for each in (address, unquote(address))}
    found = sorted((each for each in quoted.items() if each[0] != each[1]), key=lambda each: -len(each[0]))
    return found, [*_patterns(whole, "%s"), *_patterns(words, r"(?<![^\W_])%s(?![^\W_])")]


def _secrets(address: str) -> Iterator[set[str]]:
    """Returns what of an address must never be shown: as it stands, and only as a word of its own.

    The words are the parts of a user and password, as a library may read the address in another way than it was meant:
    `//me:secret/rest@host` has the port `secret`. A user's name is secret where it may be a token.
    """
    shown = without_password(address)
    rest = address.partition("://")[2] or address
    user_info, found, place = rest.rpartition("@")
    user, colon, password = user_info.partition(":")
    whole = {user_info if colon else "", password}
    words = set(_SEPARATORS.split(password))
    for part in (place, rest):
        query = re.split("[?#]", part, maxsplit=1)[1:]
        values = {value.partition("=")[2] or value for text in query for value in re.split("[&;#?]", text)}
        # A value may hold an & or # that should have been encoded: it may end at every one of them, or at the end.
        starts = [(text, at + 1) for text in query for at, sign in enumerate(text) if sign in "=#"]
        ends = [(text, start, at) for text, start in starts for at in range(start, len(text) + 1)]
        whole |= {*query, *values, *(text[start:end] for text, start, end in ends if text[end : end + 1] in "&#")}
        words |= {each for value in values for each in _SEPARATORS.split(unquote(value))[1:]}
    if user and not (colon and _PLAIN_NAME.fullmatch(user)):
        whole.add(user)
    if HIDDEN in shown and not _HOST_AND_PORT.fullmatch(address):
        whole |= {rest, user_info}
        words |= set(_SEPARATORS.split(user_info if found else rest))
    return ({each for each in some if not _NO_SECRET.fullmatch(each)} for some in (whole, words))


def _patterns(secrets: Iterable[str], form: str) -> Iterator[re.Pattern[str]]:
    spelled = {
        each
        for secret in secrets
        for each in (secret, unquote(secret), unquote_plus(secret), unquote(secret, encoding="latin-1"))
    }
    for secret in sorted((each for each in spelled if len(each) >= _SHORTEST), key=lambda each: (-len(each), each)):
        yield re.compile(form % "".join(map(_spellings, secret)))


def _spellings(character: str) -> str:
    """Returns the pattern of a character as messages spell it: as it is, percent-encoded, or escaped by `repr`, JSON.

    Ends of lines and other white space may be one blank, or lost.
    """
    encoded = "".join(f"%{byte:02x}" for byte in character.encode("utf-8", "surrogatepass"))
    forms = [re.escape(character), f"(?i:{encoded})"]
    code = ord(character)
    if character in "\\'\"/":
        forms.insert(0, rf"\\+{re.escape(character)}")
    if not (character.isascii() and character.isprintable()):
        forms += [rf"\\+(?i:u{code:04x})", rf"\\+(?i:U{code:08x})"]
        if code < 256:
            forms += [rf"\\+(?i:x{code:02x})", f"(?i:%{code:02x})"]
        if code > 0xFFFF:
            high, low = divmod(code - 0x10000, 0x400)
            forms.append(rf"\\+(?i:u{0xD800 + high:04x})\\+(?i:u{0xDC00 + low:04x})")
    if character.isspace():
        forms += [r"\s+", r"\+", *(rf"\\+{letter}" for letter in "tnrfv")]
    together = f"(?:{'|'.join(forms)})"
    return f"{together}?" if character.isspace() and character != " " else together
