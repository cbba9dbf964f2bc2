"""flows/comparing/dask_address.py: the address of a Dask cluster is checked before any cell runs there."""

import pytest

from flows import known_secrets
from flows.comparing.dask_address import check_dask
from tasks.errors import InputError

NONSENSE = ("", "nonsense", "tcp://", "tcp://h:abc", "tcp://[::1:1", "foo://x:1", "ucx://127.0.0.1:1", "tls://h:1")


@pytest.mark.parametrize("address", [*NONSENSE, "tcp://a..b:1"])
def test_an_address_that_is_nonsense_is_one_line(address: str) -> None:
    with pytest.raises(InputError, match="Dask scheduler") as raised:
        check_dask(address)
    assert "\n" not in str(raised.value)


def test_a_password_in_an_address_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known_secrets, "IN_USE", known_secrets.KnownSecrets())
    with pytest.raises(InputError, match=r"got 'tcp://127\.0\.0\.1:1': ") as raised:
        check_dask("tcp://me:s3cret77@127.0.0.1:1")
    assert "s3cret77" not in str(raised.value)
