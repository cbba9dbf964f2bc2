"""flows/addresses.py and known_secrets.py: no secret of an address is shown, whichever library reads or quotes it."""

import ast
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, quote_plus

import httpx
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sqlalchemy import create_engine, make_url

from flows import addresses, known_secrets
from tasks.errors import InputError

ROOT = Path(__file__).parents[1]

# Common characters of addresses, characters with a meaning in an address, and characters that encodings change.
_STRANGE = "/@:?#[]&=;%+ '\"\\\t\n~!$(){}|^`<>*,éß漢🔑ZQ7"
secrets = st.text(_STRANGE, min_size=4, max_size=16).filter(lambda text: len(set(text.strip())) > 2)
FORMS = (
    "postgresql://me:{}@host:5432/db",
    "postgresql://host/db?sslmode=require&sslpassword={}",
    "mysql+pymysql://{}@host/db",
    "postgresql+psycopg2://host/db?password={}&user=me",
    "mssql+pyodbc:///?odbc_connect={}",
    "http://me:{}@127.0.0.1:5000/mlflow",
    "https://host/api?token={}",
    "https://{}@host/api",
    "https://host/api#{}",
    "ssh://me:{}@host/folder",
    "me:{}@host:5000",
)
spelled = (lambda text: text, quote, lambda text: quote(text, safe=""), quote_plus)


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test begins without known addresses."""
    monkeypatch.setattr(known_secrets, "IN_USE", known_secrets.KnownSecrets())


@settings(max_examples=400)
@given(secret=secrets, form=st.sampled_from(FORMS), spell=st.sampled_from(spelled))
@example(secret="p/w d", form=FORMS[0], spell=spelled[0])
@example(secret="p@ss/word", form=FORMS[0], spell=spelled[0])
@example(secret="12/34", form=FORMS[5], spell=spelled[0])
def test_no_secret_is_shown(secret: str, form: str, spell) -> None:
    address = form.format(spell(secret))
    shown = addresses.without_password(address)
    for each in (secret, spell(secret)):
        assert each not in shown
    assert not set("?#@") & set(shown)


def _said_by_libraries(address: str) -> Iterator[str]:
    """Yields how SQLAlchemy and httpx spell an address, or their errors if they cannot read or reach it."""
    for ask in (make_url, create_engine, httpx.URL, lambda each: httpx.get(each, timeout=0.001)):
        try:
            found = ask(address)
            yield from (str(found), repr(found))
        except Exception as exc:
            yield from (str(exc), repr(exc))


@settings(max_examples=80)
@given(secret=secrets, form=st.sampled_from(FORMS), spell=st.sampled_from(spelled))
@example(secret="se cret/x", form=FORMS[5], spell=spelled[0])  # httpx: Invalid port: 'se cret'
def test_no_secret_is_left_in_what_libraries_say(secret: str, form: str, spell) -> None:
    address = form.format(spell(secret))
    known = known_secrets.KnownSecrets()
    known.remember_addresses(address)
    said = [address, spell(secret), secret, repr(secret), json.dumps(secret), ascii(secret), quote(secret, safe="")]
    for text in (*said, *_said_by_libraries(address)):
        left = known.without_secrets(f"<<{text}>>")
        assert secret not in left
        assert spell(secret) not in left
        assert repr(secret)[1:-1] not in left


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("postgresql://me:pw@host/db", "postgresql://host/db"),
        ("postgresql://me:p/w d@host/db", "postgresql://host/db"),
        ("sqlite:///mlflow.db", "sqlite:///mlflow.db"),
        ("sqlite:////home/me@work/mlflow.db", "sqlite:////home/me@work/mlflow.db"),
        ("http://me:pw@[::1]:5000/mlflow?token=abc", "http://[::1]:5000/mlflow"),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("s3://bucket/folder", "s3://bucket/folder"),
        ("databricks", "databricks"),
        ("http://[::1/api", "http://***"),
        ("postgresql://me:p@ss/word@host:1/db", "postgresql://***"),
        ("me:secret@host:5000", "***"),
    ],
)
def test_an_address_is_shown_as_the_library_reads_it(address: str, shown: str) -> None:
    assert addresses.without_password(address) == shown


def test_a_host_and_a_user_s_plain_name_stay_in_messages() -> None:
    known_secrets.IN_USE.remember_addresses("postgresql://postgres:s3cret!!@localhost:5432/mlflow?sslmode=require")
    said = (
        'connection to "localhost", user "postgres" of postgresql://localhost/mlflow: password s3cret!!, SSL required'
    )
    assert known_secrets.without_secrets(said) == said.replace("s3cret!!", "***")


@pytest.mark.parametrize(
    ("name", "value", "secret"),
    [
        ("MLFLOW_TRACKING_PASSWORD", "s3cret/+pw", "s3cret/+pw"),
        ("MLFLOW_TRACKING_TOKEN", "tok.en-77", "tok.en-77"),
        ("MLFLOW_TRACKING_URI", "postgresql://me:s3cr%2Fet@host/db", "s3cr/et"),
        ("PREFECT_API_URL", "http://me:s3cret77@host/api", "s3cret77"),
        ("PREFECT_API_AUTH_STRING", "admin:s3cret77", "s3cret77"),
        ("PREFECT_API_KEY", "pnu_77abc", "pnu_77abc"),
        ("PREFECT_CLIENT_CUSTOM_HEADERS", '{"Proxy": "s3cret77"}', "s3cret77"),
        ("AWS_SECRET_ACCESS_KEY", "abc/7DEF", "abc/7DEF"),
        ("HTTPS_PROXY", "http://me:s3cret77@proxy:3128", "s3cret77"),
    ],
)
def test_what_the_environment_holds_is_in_no_message(
    name: str, value: str, secret: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    for said in (f"it said {secret}", f"it said {value}", f"it said {quote(secret, safe='')}", repr([secret])):
        assert secret not in known_secrets.without_secrets(said)
        assert quote(secret, safe="") not in known_secrets.without_secrets(said)
    with pytest.raises(ValueError, match="no"):
        raise ValueError(known_secrets.safe_line(OSError(f"no: {secret}")))
    assert secret not in known_secrets.safe_line(OSError(f"no: {secret}"))


def test_a_secret_that_the_end_of_a_long_line_would_cut_is_not_there_in_part() -> None:
    known_secrets.IN_USE.remember_secrets("abcdefgh" * 4)
    assert "abcd" not in known_secrets.safe_line(OSError("x" * 280 + "abcdefgh" * 4))


@pytest.mark.parametrize("folder", ["/srv/undrift", "../shared/remote", "remote"])
def test_the_folder_of_a_remote_hides_no_word(folder: str) -> None:
    secrets = known_secrets.KnownSecrets()
    secrets.remember_config(f"['remote \"store\"']\n    url = {folder}\n")
    said = f"69 files of experiment undrift pushed to DVC's remote {folder}"
    assert secrets.without_secrets(said) == said


@pytest.mark.parametrize("url", ["s3:/AKIA77:s3cret77@bucket/x", "host.example/x?token=s3cret77"])
def test_a_remote_whose_address_is_wrong_hides_its_secret(url: str) -> None:
    secrets = known_secrets.KnownSecrets()
    secrets.remember_config(f"url = {url}\n")
    assert "s3cret77" not in secrets.without_secrets(f"no {url}, s3cret77")


def test_remotes_of_dvc_are_known_also_from_a_file_that_dvc_refuses() -> None:
    known_secrets.IN_USE.remember_config(
        """[core]
    remote = store
    analytics = true
['remote "store"']
    url = https://me:s3cret77@host/store
    password = "pass word"
    secret_access_key = AKIA77  # the old one
    ask_password = false
    not a line of this kind
"""
    )
    said = "store: s3cret77, pass word, AKIA77, false, true, https://me:s3cret77@host/store"
    assert known_secrets.without_secrets(said) == "store: ***, ***, ***, false, true, https://host/store"


def test_no_log_record_and_no_traceback_holds_a_secret(tmp_path: Path) -> None:
    script = """
import logging, flows
logging.basicConfig(format="%(message)s")
logging.getLogger("urllib3").warning("retrying %s", "http://me:s3cret77@host/api")
try:
    raise OSError("s3cret77 refused")
except OSError:
    logging.getLogger("any").exception("it failed")
raise RuntimeError("a defect at http://me:s3cret77@host/api")
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PREFECT_API_URL": "http://me:s3cret77@host/api"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=60)
    assert "retrying http://host/api" in done.stderr
    assert "OSError: *** refused" in done.stderr
    assert "RuntimeError: a defect at http://host/api" in done.stderr
    assert "s3cret77" not in done.stderr + done.stdout


def test_a_record_without_secrets_is_logged_as_ever(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        logging.getLogger("flows.test").info("%d of %s", 3, "rounds")
    assert caplog.messages == ["3 of rounds"]


@pytest.mark.parametrize(
    "address", ["localhost:5000", "nonsense", "http://[::1/api", "http://", "postgresql://h:abc/db"]
)
def test_an_address_that_no_library_reads_is_refused_by_its_setting(address: str) -> None:
    with pytest.raises(InputError, match=r"^MLFLOW_TRACKING_URI must be an address like http") as raised:
        addresses.check_readable("MLFLOW_TRACKING_URI", address, "http://127.0.0.1:5000")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("address", ["http://127.0.0.1:5000", "sqlite://", "sqlite:///a.db", "databricks"])
def test_an_address_that_can_be_read_is_taken(address: str) -> None:
    addresses.check_readable("MLFLOW_TRACKING_URI", address, "http://127.0.0.1:5000")


def test_a_variable_that_was_set_to_nothing_hides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PREFECT_UI_URL", "MLFLOW_TRACKING_URI", "PREFECT_API_KEY"):
        monkeypatch.setenv(name, "")
    assert known_secrets.without_secrets("federate 1/30  loss 0.5") == "federate 1/30  loss 0.5"


OURS = {"UndriftError", "InputError", "SettingsError", "DataError", "RunError", "TrackingLost", "Stopped"}


def _caught(handler: ast.ExceptHandler) -> set[str]:
    kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return {ast.unparse(kind).rpartition(".")[2] for kind in kinds if kind is not None}


@pytest.mark.parametrize(
    "path", sorted((ROOT / "flows").rglob("*.py")), ids=lambda path: path.relative_to(ROOT).as_posix()
)
def test_what_a_library_raised_is_shown_through_one_line_only(path: Path) -> None:
    """Otherwise, the next error that quotes an address would show its password."""
    for handler in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not (isinstance(handler, ast.ExceptHandler) and handler.name) or _caught(handler) <= OURS:
            continue
        for node in ast.walk(handler):
            shown = []
            if isinstance(node, ast.FormattedValue):
                shown = [node.value]
            elif isinstance(node, ast.Call) and ast.unparse(node.func).startswith(("str", "repr", "log.")):
                shown = node.args
            for each in shown:
                raw = isinstance(each, ast.Name) and each.id == handler.name
                assert not raw, f"{path.name}:{node.lineno}: {ast.unparse(node)}"
