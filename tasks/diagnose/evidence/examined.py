"""Clients whose data have been wrong since the start, so that no change in the course of the run shows it."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import TypeVar

from tasks.clients import Examples
from tasks.diagnose.evidence.findings import Findings
from tasks.diagnose.replay.engine import Replayer
from tasks.diagnose.standing.examine import examine, model_judge
from tasks.local.probe import Probe

T = TypeVar("T")


class _Sites:
    """The clients of a replay."""

    def __init__(self, replays: Replayer) -> None:
        self._replays = replays

    @property
    def test(self) -> Examples:
        """The hold-out data."""
        return self._replays.cohort.test_x, self._replays.cohort.test_y

    @property
    def num_classes(self) -> int:
        """C."""
        return self._replays.cohort.num_classes

    def at_clients(self, compute: Callable[[Examples], T], clients: tuple[str, ...] | None = None) -> Mapping[str, T]:
        """Returns what a client computation gives at each of `clients` (None: all)."""
        return self._replays.at_clients(lambda _, examples: compute(examples), clients)


def examined(findings: Findings, replays: Replayer, probe: Probe) -> Findings:
    """Returns the findings with the clients whose data contradict the hold-out data, if these are a minority."""
    sites = _Sites(replays)
    judge = partial(model_judge, partial(probe.logits, replays.params), sites.test)
    examination = examine(sites, replays.settings.diagnose.significance, None, judge)
    suspects = examination.suspects
    if 2 * len(suspects) >= len(findings.clients):
        return findings
    return replace(
        findings,
        clients=tuple(
            replace(each, examined=examination.clients[each.client]) if each.client in suspects else each
            for each in findings.clients
        ),
    )
