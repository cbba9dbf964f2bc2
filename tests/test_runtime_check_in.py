import numpy as np
import pytest

from tasks.clients import CLIENTS, Form
from tasks.errors import DataError, RunError, SettingsError
from tasks.local.description import Description, describe, write_descriptions
from tasks.runtime.carry import at_clients
from tasks.runtime.check_in import check_in
from tasks.runtime.failed import Failed
from tests.shards import put, stored, write_client


@pytest.fixture
def clients(make_clients):
    return make_clients(sizes=(3, 8, 5))


def place(folder, client):
    return stored(folder, client, Form((2,), 2))


def test_a_computation_runs_at_each_client_and_one_that_fails_is_named(tmp_path):
    def compute(stored):
        if stored.client == "b":
            raise DataError("client b: no data")
        if stored.client == "c":
            raise RunError("the model failed")
        return stored.client.upper()

    answers = at_clients(compute, {client: place(tmp_path, client) for client in ("c", "a", "b")})
    assert list(answers.items()) == [("c", Failed("the model failed")), ("a", "A"), ("b", Failed("client b: no data"))]


def test_a_defect_of_ours_is_no_failure_of_a_client(tmp_path):
    with pytest.raises(ZeroDivisionError):
        at_clients(lambda stored: 1 // 0, {"a": place(tmp_path, "a")})


def test_clients_check_in_as_their_data_are_today(clients, tmp_path):
    root = clients.write(tmp_path) / CLIENTS
    form = check_in(root).form
    expected = {client: describe(client, clients.data[client], form) for client in clients.ids}
    assert check_in(root).clients == expected
    # Wrong counts: they show which description was taken.
    write_descriptions(root, {c: Description((one.num_examples, 0, 0), one.digest) for c, one in expected.items()})
    x, y = clients.data["01"]
    write_client(root, "01", x + 1, y)
    today = check_in(root).clients
    assert (today["00"].labels, today["02"].labels) == ((3, 0, 0), (5, 0, 0))
    assert today["01"] == describe("01", (x + 1, y), form)


def test_the_same_clients_without_some_are_those_of_a_check_in_without_them(clients, tmp_path):
    root = clients.write(tmp_path) / CLIENTS
    put(root, "02", y=None)
    whole, left = check_in(root).without(["00"]), check_in(root, ["00"])
    assert (whole.clients, whole.broken, whole.digest) == (left.clients, left.broken, left.digest)
    assert list(whole.broken) == ["02"]
    with pytest.raises(SettingsError, match="names 09"):
        check_in(root).without(["09"])
    with pytest.raises(DataError, match="no client can be used: 02"):
        check_in(root).without(["00", "01"])


def test_a_client_of_other_data_has_another_digest(clients, tmp_path):
    root = clients.write(tmp_path) / CLIENTS
    before = check_in(root).digest
    x, y = clients.data["01"]
    write_client(root, "01", np.where(x == x.max(), 0, x), y)
    assert check_in(root).digest != before
