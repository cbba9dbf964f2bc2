"""Finds the Prefect and MLflow servers that are set, and checks that they answer."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from flows import addresses, known_secrets
from flows.addresses import without_password
from flows.known_secrets import safe_line
from flows.mlflow_store import connection
from tasks.errors import InputError, TrackingLost

if TYPE_CHECKING:
    from prefect.settings import Settings

_PATIENCE = 15.0
"""Seconds that a server may take to answer."""


def prefect_address() -> str:
    """Returns the Prefect API's address from PREFECT_API_URL or the active Prefect profile; empty if none is set."""
    address = str(prefect_settings().api.url or "").rstrip("/")
    known_secrets.IN_USE.remember_addresses(address)
    return address


def prefect_settings() -> "Settings":
    """Returns Prefect's settings from the environment and the active profile.

    Raises:
        InputError: a setting is wrong. Prefect checks its settings when it is imported.
    """
    url = os.environ.get("PREFECT_API_URL")
    if url:
        check_prefect_address(url)
    try:
        from prefect.settings import get_current_settings

        settings = get_current_settings()
    except Exception as exc:  # of pydantic, a TOML file or an address: Prefect reads its settings in many ways
        raise InputError(f"Prefect cannot use its settings (PREFECT_... or its profile): {_wrong(exc)}") from exc
    for secret in (settings.api.auth_string, settings.api.key):
        if secret is not None:
            text = secret.get_secret_value()
            known_secrets.IN_USE.remember_secrets(text, text.partition(":")[2])
    return settings


def check_prefect_address(url: str) -> None:
    """Raises InputError if `url`, the value of PREFECT_API_URL, cannot be read as an address."""
    addresses.check_readable("PREFECT_API_URL", url, "http://127.0.0.1:4200/api")


def _wrong(exc: Exception) -> str:
    """Returns what is wrong with a setting. Pydantic's own message would quote all settings and passwords."""
    import pydantic

    if not isinstance(exc, pydantic.ValidationError):
        return safe_line(exc)
    first = exc.errors(include_input=False, include_url=False, include_context=False)[0]
    return known_secrets.without_secrets(" ".join([exc.title, *map(str, first["loc"])]) + f": {first['msg']}")


def check_prefect() -> None:
    """Checks that the Prefect server answers, if one is set. Prefect itself would try for minutes.

    Raises:
        InputError: the server (1) does not answer within 15 s, (2) is no Prefect server, (3) refuses the password, or
            (4) is older than the installed Prefect.
    """
    import httpx

    url = prefect_address()
    if not url:
        return
    check_prefect_address(url)
    shown = without_password(url)
    secret = prefect_settings().api.auth_string
    user, _, password = (secret.get_secret_value() if secret else "").partition(":")
    try:
        answer = httpx.get(f"{url}/admin/version", auth=(user, password) if user else None, timeout=_PATIENCE)
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as exc:
        raise InputError(f"the Prefect server at PREFECT_API_URL={shown} does not answer: {safe_line(exc)}") from exc
    if answer.status_code in (401, 403):
        refusal = "refuses the password in PREFECT_API_AUTH_STRING" if user else "needs a password"
        raise InputError(f"the Prefect server at {shown} {refusal}: set PREFECT_API_AUTH_STRING=user:password")
    is_cloud = "/workspaces/" in url
    if is_cloud:  # Prefect Cloud has no page admin/version
        return
    if answer.status_code != 200:
        raise InputError(f"{shown} answers, but is no Prefect API: check PREFECT_API_URL, which must end in /api")
    _check_version(shown, answer.text)


def _check_version(shown: str, body: str) -> None:
    """Raises InputError for a server older than the installed Prefect: it would accept a run, then refuse its tasks."""
    import prefect
    from packaging.version import InvalidVersion, Version

    text = body.strip().strip('"')
    try:
        is_older = Version(text) < Version(prefect.__version__)
    except InvalidVersion as exc:
        raise InputError(f"{shown} answers, but is no Prefect API: it gives {text[:50]!r} as its version") from exc
    if is_older:
        raise InputError(
            f"the Prefect server at {shown} must be of version {prefect.__version__} or newer, got {text}: upgrade it, "
            "or start one from this environment with `prefect server start`"
        )


def require_prefect() -> None:
    """Raises InputError if no Prefect server is set, or if `check_prefect` raises it."""
    if not prefect_address():
        raise InputError(
            "PREFECT_API_URL is not set: run `prefect server start`, then "
            "`export PREFECT_API_URL=http://127.0.0.1:4200/api`"
        )
    check_prefect()


def check_mlflow(repository: Path) -> None:
    """Checks that the store at MLFLOW_TRACKING_URI accepts runs, before any step begins; does nothing if it is not set.

    Raises:
        InputError: the store does not answer (a server: within 15 s), refuses the password, or the address is wrong.
        RunError: the store's experiment was deleted.
    """
    url = os.environ.get("MLFLOW_TRACKING_URI", "")
    if not url:
        return
    connection.check_mlflow_address(url)
    try:
        if url.startswith(("http:", "https:")):
            connection.knock(url, _PATIENCE)
        connection.connect(repository)
    except OSError as exc:
        raise InputError(f"MLflow at MLFLOW_TRACKING_URI={without_password(url)}: {safe_line(exc)}") from exc
    except TrackingLost as exc:
        raise InputError(str(exc)) from exc
