"""The clients' inputs of a round. Each is made where its client computes, from what the host decides for the client."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.clients import Examples
from tasks.federate import schedule
from tasks.federate.cohort import Client
from tasks.federate.state import ClientInput
from tasks.local import faults
from tasks.local.own_examples import own_examples, remembered
from tasks.parameters import Params
from tasks.settings import FaultSettings, LocalWorkSettings

# Used if nothing is drawn: computing a real seed takes 25 µs a client.
_NO_SEED = np.zeros(2, np.int32)


@dataclass(frozen=True)
class Plan:
    """What all inputs of a round have in common.

    Attributes:
        round_num: the round.
        seed: of the run.
        local_seed: of the clients' draws; see `tasks.federate.runner.Runner`.
        learning_rate: of the clients in this round.
        whole: the sum of the shares of the clients that are left.
        draws: whether the clients need a seed.
        local_work: how often a client visits its examples.
        faults: that are simulated.
    """

    round_num: int
    seed: int
    local_seed: int
    learning_rate: float
    whole: float
    draws: bool
    local_work: LocalWorkSettings
    faults: FaultSettings


_AT_ONCE = 8
"""Clients whose orders are drawn one after the other. If each thread draws between two clients' steps, the threads wait
for each other in Python, and a draw takes two to four times as long."""

_Draws = tuple[NDArray[np.int32], Examples | None]
"""A client's order, and its examples if they are in memory."""


class _Prepared:
    """What has been prepared of the clients that are asked for next. It stays in its process."""

    def __init__(self) -> None:
        self._by_place: dict[int, _Draws] = {}
        self._preparing = threading.Lock()

    def __reduce__(self) -> tuple[type["_Prepared"], tuple[()]]:
        return _Prepared, ()

    def of(self, place: int, prepare: Callable[[slice], list[_Draws]]) -> _Draws:
        """Returns what is prepared for the client at `place`, once; `prepare` does it for several."""
        with self._preparing:
            if place not in self._by_place:
                try:
                    found = prepare(slice(place, place + _AT_ONCE))
                except Exception:  # of any of them: it must not break the others
                    found = prepare(slice(place, place + 1))
                self._by_place = dict(enumerate(found, place)) | self._by_place
            return self._by_place.pop(place)


@dataclass(frozen=True)
class Inputs(Sequence[ClientInput]):
    """The inputs of some clients. Each is made when it is asked for, on the thread that computes the client.

    A slice of them has only what its clients need, so another process can make their inputs. It reads the examples
    from the same files.

    Attributes:
        clients: the ids, in their order.
        infos: of these clients, and possibly of others.
        architectures: by client, the index of the architecture that it trains; 0 if it is not named.
        kept: by client, the vector (P,) that it keeps; None if clients keep none.
        plan: what the inputs have in common.
    """

    clients: Sequence[str]
    infos: Mapping[str, Client]
    architectures: Mapping[str, int]
    kept: Mapping[str, Params] | None
    plan: Plan
    _prepared: _Prepared = field(init=False, repr=False, compare=False, default_factory=_Prepared)

    def __len__(self) -> int:
        return len(self.clients)

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return self._of(self.clients[place])
        return self._input(range(len(self))[place])

    def _of(self, clients: Sequence[str]) -> "Inputs":
        return replace(
            self,
            clients=clients,
            infos={client: self.infos[client] for client in clients},
            architectures={c: self.architectures[c] for c in clients if c in self.architectures},
            kept=None if self.kept is None else {client: self.kept[client] for client in clients},
        )

    def _input(self, place: int) -> ClientInput:
        client, plan = self.clients[place], self.plan
        info = self.infos[client]
        order, examples = self._prepared.of(place, self._prepare)
        x, y = examples or own_examples(info.stored)
        inputs = OrderedDict(
            x=x,
            y=y,
            num_examples=np.int32(info.num_examples),
            order=order,
            weight=np.float32(info.weight),
            share=np.float32(info.share / plan.whole),
            learning_rate=np.float32(plan.learning_rate),
            seed=schedule.draw_seed(plan.local_seed, plan.round_num, client) if plan.draws else _NO_SEED,
            brightness=info.brightness,
            architecture=np.int32(self.architectures.get(client, 0)),
        )
        inputs |= faults.inputs(plan.faults, plan.seed, plan.round_num, client)
        if self.kept is not None:
            inputs["kept"] = self.kept[client]
        return inputs

    def _prepare(self, places: slice) -> list[_Draws]:
        """Returns the orders of some clients, and their examples if they are in memory."""
        clients, plan = self.clients[places], self.plan
        infos = [self.infos[client] for client in clients]
        orders = [
            order(info, client, plan.round_num, plan.local_seed, plan.local_work)
            for info, client in zip(infos, clients, strict=True)
        ]
        return list(zip(orders, remembered([info.stored for info in infos]), strict=True))


def order(info: Client, client: str, round_num: int, seed: int, work: LocalWorkSettings) -> NDArray[np.int32]:
    """Returns the order (E·N,) in which a client visits its examples in round `round_num`; `seed` is of its draws."""
    rng = schedule.client_rng(seed, round_num, client)
    return schedule.visits(info.num_examples, schedule.epochs(work, client, rng), rng)
