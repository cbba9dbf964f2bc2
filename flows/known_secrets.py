"""Removes the secrets of all addresses in use from every text that is shown: errors, log records, tracebacks.

Libraries quote addresses in their errors: whole or in parts, decoded or encoded again. So every secret of every address
in use is removed in all these spellings.
"""

import logging
import os
import re
import sys
from collections.abc import Iterable, Iterator
from functools import lru_cache
from types import TracebackType
from typing import Any
from urllib.parse import unquote, unquote_plus

from flows.addresses import HIDDEN, without_password

_SHORTEST = 4
"""Fewest characters of a secret that is hidden. A shorter text is part of many words by chance."""
_LONGEST_LINE = 300
"""Most characters of an error's line."""
_READ_BY = ("MLFLOW_", "PREFECT_", "DVC_", "AWS_", "AZURE_", "DATABRICKS_", "GOOGLE_")
_SECRET_NAME = re.compile(r"pass|secret|token|key|connection_string|auth_string|header|ticket", re.IGNORECASE)
_NO_SECRET = re.compile(
    # Common values in a database's address, for TLS, text encoding and host. Hiding them would make messages hard to
    # read.
    r"true|false|none|null|disable|allow|prefer|require|verify-ca|verify-full|utf8(mb4)?|localhost|\d+(\.\d+){3}",
    re.IGNORECASE,
)
_OPTION = re.compile(r"^\s*([\w-]+)\s*=\s*(.*?)\s*$", re.MULTILINE)
_HOST_AND_PORT = re.compile(r"[a-z0-9.-]+:\d{2,5}(/[a-z0-9/._-]*)?")
_SEPARATORS = re.compile(r"[\s@/:?#&;=\[\]{}]+")
_PLAIN_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,19}")

Known = tuple[str, bool]
"""A text that holds a secret, and whether the text is an address."""


class KnownSecrets:
    """The addresses, passwords and tokens in use: the remembered ones and, added at each call, the environment's."""

    def __init__(self) -> None:
        self._texts: set[Known] = set()

    def remember_addresses(self, *addresses: str) -> None:
        """Hides the secrets of these addresses in every text from now on."""
        self._texts.update((address, True) for address in addresses if address)

    def remember_secrets(self, *secrets: str) -> None:
        """Hides these passwords and tokens in every text from now on."""
        self._texts.update((secret, False) for secret in secrets if secret)

    def remember_config(self, text: str) -> None:
        """Hides the secrets of a DVC configuration from now on. DVC may refuse the configuration and quote it."""
        for name, value in _OPTION.findall(text):
            for spelled in (value, value.partition(" #")[0].rstrip()):
                self._texts.update(_named(name, spelled.strip("'\"")))

    def without_secrets(self, text: str) -> str:
        """Returns `text` with every known address shown by `without_password`, and every known secret as `***`.

        Known are (1) the addresses and passwords in the environment variables of MLflow, Prefect, DVC, cloud stores and
        proxies, and (2) what was remembered. A secret of fewer than four characters stays.
        """
        # An empty value (a variable set to an empty text) would match between any two characters.
        texts = frozenset(pair for pair in self._texts.union(_environment()) if len(pair[0]) >= _SHORTEST)
        if not texts or not text:
            return text
        addresses, patterns = _compiled(texts)
        for address, shown in addresses:
            text = text.replace(address, shown)
        for pattern in patterns:
            text = pattern.sub(HIDDEN, text)
        return text

    def is_empty(self) -> bool:
        """Returns whether no secret is known, neither a remembered one nor one in the environment."""
        return not self._texts and not any(_environment())


IN_USE = KnownSecrets()
"""The secrets of this process. One object for all, because log records and tracebacks are the process's too."""


def without_secrets(text: str) -> str:
    """Returns `text` without the secrets in `IN_USE`."""
    return IN_USE.without_secrets(text)


def safe_line(exc: BaseException) -> str:
    """Returns the first line of a library's error, without secrets and with at most 300 characters."""
    text = str(exc).strip() or type(exc).__name__
    if "Max retries exceeded" in text:
        return "it does not answer"
    # SQLAlchemy's first line can be about what it was doing. Secrets are removed before the text is split into lines:
    # a password can hold the end of a line.
    lines = [line for line in without_secrets(text).splitlines() if line and not line.startswith("(raised as a result")]
    return " ".join((lines or [type(exc).__name__])[0].split())[:_LONGEST_LINE]


def safe_text(exc: BaseException) -> str:
    """Returns the whole text of a library's error, as one line without secrets."""
    return " ".join(without_secrets(str(exc) or type(exc).__name__).split())


def guard() -> None:
    """From now on, removes the secrets from every log record, and from every traceback that ends this process."""
    if logging.getLogRecordFactory() is not _record:
        logging.setLogRecordFactory(_record)
    if sys.excepthook is not _excepthook:
        sys.excepthook = _excepthook


class _Record(logging.LogRecord):
    """A log record without secrets, for the handlers of Undrift, Prefect and all other libraries."""

    def getMessage(self) -> str:  # noqa: N802 - the name that logging defines
        return without_secrets(super().getMessage())


def _record(*arguments: Any, **named: Any) -> logging.LogRecord:
    record = _Record(*arguments, **named)
    if record.exc_info and record.exc_info[0] is not None and not IN_USE.is_empty():
        # Formatters use this text, if it is set, instead of the traceback.
        record.exc_text = without_secrets(logging.Formatter().formatException(record.exc_info))
    return record


def _excepthook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    print(without_secrets(logging.Formatter().formatException((kind, error, trace))), file=sys.stderr)


def _environment() -> Iterator[Known]:
    for name, value in os.environ.items():
        if name.startswith(_READ_BY) or (name.upper().endswith("_PROXY") and "@" in value):
            yield from _named(name, value)


def _named(name: str, value: str) -> Iterator[Known]:
    """Yields the secrets in an environment variable or a DVC option of this name."""
    # A remote of DVC can be a folder: it has no secret, and its last part can be a common word of the messages.
    is_remote = name == "url" and any(sign in value for sign in ":@?#")
    if "://" in value or name.upper().endswith(("_URI", "_URL", "_PROXY")) or is_remote:
        yield value, True
    elif _SECRET_NAME.search(name) and not _NO_SECRET.fullmatch(value):
        yield value, False
        parts = re.findall(r':\s*"([^"]+)"', value)  # values in the JSON of a variable ..._HEADERS
        yield from ((part, False) for part in (*parts, value.partition(":")[2] if name.endswith("AUTH_STRING") else ""))


@lru_cache(maxsize=8)
def _compiled(texts: frozenset[Known]) -> tuple[list[tuple[str, str]], list[re.Pattern[str]]]:
    """Returns (address, what replaces it) for each address, and a pattern for each secret; the longest come first."""
    addresses = {text for text, is_address in texts if is_address}
    whole, words = {text for text, is_address in texts if not is_address}, set[str]()
    for address in addresses:
        of_this, words_of_this = _secrets(address)
        whole, words = whole | of_this, words | words_of_this
    shown = {each: without_password(each) for address in addresses for each in (address, unquote(address))}
    replaced = sorted((each for each in shown.items() if each[0] != each[1]), key=lambda each: -len(each[0]))
    return replaced, [*_patterns(whole, "%s"), *_patterns(words, r"(?<![^\W_])%s(?![^\W_])")]


def _secrets(address: str) -> Iterator[set[str]]:
    """Yields two sets of secrets of an address: (1) secrets hidden everywhere, (2) secrets hidden only as whole words.

    The whole words are the parts of user and password. A library can split the address in another way than the user
    meant: in `//me:secret/rest@host` it finds the port `secret`. A user's name is a secret if it can be a token.
    """
    shown = without_password(address)
    rest = address.partition("://")[2] or address
    user_info, at_sign, place = rest.rpartition("@")
    user, colon, password = user_info.partition(":")
    whole = {user_info if colon else "", password}
    words = set(_SEPARATORS.split(password))
    for part in (place, rest):
        query = re.split("[?#]", part, maxsplit=1)[1:]
        values = {value.partition("=")[2] or value for text in query for value in re.split("[&;#?]", text)}
        # A value can hold an & or # that is not percent-encoded, so it can end at each of them, or at the very end.
        starts = [(text, at + 1) for text in query for at, sign in enumerate(text) if sign in "=#"]
        ends = [(text, start, at) for text, start in starts for at in range(start, len(text) + 1)]
        whole |= {*query, *values, *(text[start:end] for text, start, end in ends if text[end : end + 1] in "&#")}
        words |= {each for value in values for each in _SEPARATORS.split(unquote(value))[1:]}
    if user and not (colon and _PLAIN_NAME.fullmatch(user)):
        whole.add(user)
    if HIDDEN in shown and not _HOST_AND_PORT.fullmatch(address):
        whole |= {rest, user_info}
        words |= set(_SEPARATORS.split(user_info if at_sign else rest))
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
    """Returns a pattern for a character as messages spell it: plain, percent-encoded, or escaped by `repr` or JSON.

    The end of a line and other white space can also be one blank, or be missing.
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
