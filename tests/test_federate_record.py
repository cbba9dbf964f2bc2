"""The rows of rounds.csv and clients.csv, from results on plain numbers."""

import numpy as np
import pytest

from tasks.federate.record import Outcome, client_rows, round_row
from tasks.federate.state import ClientResult
from tasks.federate.updates import updates_of
from tasks.runtime.failed import Failed


def result(update, weight, loss, **more):
    """A client's result; its loss is `loss` before the training, a half of it after, and three quarters in the mean."""
    return ClientResult(
        update=np.array(update, np.float32),
        weight=weight,
        finite=True,
        loss_before=loss,
        loss_after=loss / 2,
        loss_mean=0.75 * loss,
        num_steps=3,
        normalizer=1.0,
        **more,
    )


def rows_of(results, failures=None, before=(1.0, 1.0), after=(1.0, 1.0), validation=None, prunable=(True, True)):
    """(rows of clients.csv by client, row of rounds.csv) of round 7."""
    params = [np.array(values, np.float32) for values in (before, after)]
    failures = failures or {}
    averaged = [client for client in results if client not in failures]
    with updates_of(len(results), len(params[0]), None) as updates:
        for client in averaged:
            updates.add(results[client].update, results[client].weight)
        sizes = dict.fromkeys(results, 5)
        outcome = Outcome(7, "federate", results, failures, sizes, averaged, updates, *params)
        clients, statistics = client_rows(outcome)
        row = round_row(outcome, clients, statistics, validation, np.array(prunable))
    return {one["client"]: one for one in clients}, row


def test_losses_are_averaged_as_the_updates_were():
    _, row = rows_of({"a": result([1, 0], 1.0, 4.0), "b": result([0, 1], 3.0, 8.0)})
    # ¼ · 4 + ¾ · 8
    assert (row["train_loss"], row["local_loss"]) == (7.0, 5.25)
    # √(¼ ‖(¾, −¾)‖² + ¾ ‖(−¼, ¼)‖²) = √(¼ · 9/8 + ¾ · 1/8)
    assert row["drift"] == pytest.approx(np.sqrt(0.375), rel=1e-6)


@pytest.mark.parametrize("loss", [np.inf, np.nan, 1e30])
def test_loss_of_a_client_that_failed_is_written_and_not_averaged(loss):
    failures = {"b": "its update is not finite", "c": "no file"}
    results = {"a": result([3, 4], 1.0, 4.0), "b": result([np.nan, 0], 9.0, loss), "c": Failed("no file")}
    clients, row = rows_of(results, failures)
    assert (row["train_loss"], row["local_loss"], row["num_clients"], row["num_failed"]) == (4.0, 3.0, 3, 2)
    assert (row["update_norm_mean"], row["update_norm_max"], row["drift"]) == (5.0, 5.0, 0.0)
    assert [clients[c]["weight"] for c in "abc"] == [1.0, 0.0, 0.0]
    assert [clients[c]["finite"] for c in "abc"] == [True, False, False]
    assert [clients[c]["failure"] for c in "abc"] == [None, "its update is not finite", "no file"]
    np.testing.assert_equal(clients["b"]["loss_before"], loss)
    assert clients["b"]["update_norm"] is clients["c"]["loss_before"] is None


def test_client_that_failed_without_being_drawn_has_a_row():
    clients, row = rows_of({"a": result([3, 4], 2.0, 4.0)}, {"00": "x.npy is gone"})
    assert list(clients) == ["00", "a"]
    assert (clients["00"]["num_examples"], clients["00"]["failure"]) == (None, "x.npy is gone")
    assert (row["num_clients"], row["num_failed"]) == (2, 1)


def test_sparsity_is_of_the_prunable_parameters_alone():
    results = {"a": result([0, 0, 0, 0, 0], 1.0, 1.0)}
    # One of four weights is zero. The bias is zero too, and does not count.
    sizes = {"before": [1, 1, 1, 1, 0], "after": [0, 1, -1, 2, 0]}
    assert rows_of(results, prunable=[True, True, True, True, False], **sizes)[1]["sparsity"] == 0.25
    assert rows_of(results, prunable=[False] * 5, **sizes)[1]["sparsity"] == 0.0


def test_server_update_is_the_way_from_the_model_before_to_the_one_after():
    _, row = rows_of({"a": result([9, 9], 1.0, 1.0)}, before=[1, 2], after=[4, 6])
    assert row["server_update_norm"] == 5.0


def test_validation_that_was_not_measured_is_empty_and_one_that_is_not_finite_is_written():
    results = {"a": result([1, 0], 1.0, 1.0)}
    assert rows_of(results)[1]["val_loss"] is None
    measured = rows_of(results, validation=(np.inf, 0.5))[1]
    assert (measured["val_loss"], measured["val_accuracy"]) == (np.inf, 0.5)
