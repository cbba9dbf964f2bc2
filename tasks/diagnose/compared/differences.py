"""What differs between two runs: settings, raw data of clients, clients that are new or gone, hold-out data, code."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from tasks.diagnose.compared.side import Side
from tasks.diagnose.phrases import count, every_client, joined
from tasks.settings import Settings, fields, value_at

What = Literal["setting", "client", "new_client", "missing_client", "code"]

# Sections and settings on which the loss of the trained model does not depend.
_NO_PART = (
    "data.path",
    "diagnose.",
    "evaluate.",
    "federate.checkpoint_every",
    "federate.evaluate_every",
    "federate.guard",
    "federate.runtime.",
    "prune.",
    "track.",
)
_OF_DIVISION = ("data.", "partition.", "preprocess.resize", "seed")
"""Settings that decide which examples each client has."""


@dataclass(frozen=True, eq=False)
class Difference:
    """One difference that can be taken back alone.

    Attributes:
        what: its kind.
        names: of the settings, the client, or the files of code.
        says: what is different, a sentence.
        back: what a replay without it is called, as `with the data of client 07 of RUN`.
        settings: to be set to take it back.
        clients: whose raw data are taken from the other run, or that take no part if they are new.
        whole: whether the other run's data of all clients are taken.
        now: a number of this run; None if it is none.
        then: the same of the other run.
    """

    what: What
    names: tuple[str, ...]
    says: str
    back: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    clients: tuple[str, ...] = ()
    whole: bool = False
    now: float | None = None
    then: float | None = None

    @property
    def name(self) -> str:
        """The names in one text."""
        return ", ".join(self.names)


def differences(this: Side, other: Side, code: tuple[str, ...] = ()) -> list[Difference]:
    """Returns what differs in `this` from `other`: settings first, then clients, then the code.

    If the clients' data differ and a setting of their division does, too, both are one difference: which client has
    which examples follows from the setting.

    Args:
        this: the run whose loss is higher.
        other: the run with which it is compared.
        code: names of the files of code that differ.
    """
    changed = _changed(this.settings, other.settings)
    clients = list(_of_clients(this, other))
    dividing = {name: both for name, both in changed.items() if name.startswith(_OF_DIVISION)}
    found = []
    if dividing and clients:
        found.append(_setting(dividing, other.name, whole=True))
        changed = {name: both for name, both in changed.items() if name not in dividing}
        clients = []
    found += [_setting(each, other.name) for each in _together(changed)]
    found += clients
    if code:
        says = f"The code differs from that of {other.name}: {joined(list(code[:5]))}"
        more = f" and {count(len(code) - 5, 'more file')}" if len(code) > 5 else ""
        found.append(Difference("code", code, f"{says}{more}.", f"with the code of {other.name}"))
    return found


def _changed(this: Settings, other: Settings) -> dict[str, tuple[Any, Any]]:
    now, then = this.model_dump(mode="json"), other.model_dump(mode="json")
    both = {name: (value_at(now, name), value_at(then, name)) for name in fields()}
    return {name: pair for name, pair in both.items() if pair[0] != pair[1] and not name.startswith(_NO_PART)}


def _together(changed: Mapping[str, tuple[Any, Any]]) -> Iterator[dict[str, tuple[Any, Any]]]:
    """Yields settings that are taken back together: a `kind` and the fields beside it, or one alone."""
    left = dict(changed)
    for name in [name for name in changed if name.endswith(".kind")]:
        section = name.removesuffix("kind")
        together = {each: left.pop(each) for each in [*left] if each.startswith(section)}
        if together:
            yield together
    for name, pair in left.items():
        yield {name: pair}


def _setting(changed: Mapping[str, tuple[Any, Any]], other: str, whole: bool = False) -> Difference:
    names = tuple(changed)
    says = "; ".join(f"{name} is {now!r}, and in {other} it was {then!r}" for name, (now, then) in changed.items())
    back = " and ".join(f"{name}={then!r}" for name, (_, then) in changed.items())
    data = f" and the division of the data of {other}" if whole else ""
    numbers = [_number(value) for value in next(iter(changed.values()))] if len(changed) == 1 else [None, None]
    settings = {name: then for name, (_, then) in changed.items()}
    return Difference(
        "setting", names, f"{says}.", f"with {back}{data}", settings, whole=whole, now=numbers[0], then=numbers[1]
    )


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _of_clients(this: Side, other: Side) -> Iterator[Difference]:
    for client in sorted({*this.digests, *other.digests}):
        now, then = this.sizes.get(client), other.sizes.get(client)
        who = every_client([client])
        if now is None:
            says = f"{who} had {count(then or 0, 'example')} in {other.name}, and is gone."
            yield Difference("missing_client", (client,), _capital(says), f"with {who} again", clients=(client,))
        elif then is None:
            says = f"{who} is new, with {count(now, 'example')}."
            yield Difference("new_client", (client,), _capital(says), f"without {who}", clients=(client,))
        elif this.digests[client] != other.digests[client]:
            same = now == then
            sizes = "as many examples" if same else f"{count(now, 'example')} instead of {then}"
            yield Difference(
                "client",
                (client,),
                f"The data of {who} changed: {sizes}, and other values than in {other.name}.",
                f"with the data of {who} of {other.name}",
                clients=(client,),
                now=None if same else float(now),
                then=None if same else float(then),
            )


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
