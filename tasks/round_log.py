"""rounds.csv and clients.csv as the steps exchange them: the reading that refuses what no run writes."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from tasks.errors import DataError
from tasks.files import check_client_id, read_rows

Rows = list[dict[str, str]]


def read_rounds(path: Path, columns: Sequence[str], phases: Collection[str], step: str) -> Rows:
    """Returns the rows of a rounds.csv, in which round n is the n-th row.

    Args:
        path: the file.
        columns: those that are needed beside `round` and `phase`.
        phases: those that the file must have, `federate` before `prune`, and no other.
        step: which makes the file; named in the errors.

    Raises:
        DataError: no such file, a missing column, no round, a round that is missing, doubled or out of place, or one of
            another phase.
    """
    rows = read_rows(path, ["round", "phase", *columns])
    for number, row in enumerate(rows, start=1):
        if row["round"] != str(number):
            raise DataError(
                f"{path} must hold the rounds 1 to {len(rows)} in their order, got {row['round'][:50]!r} in row "
                f"{number}: run the step {step} again"
            )
    found = [row["phase"] for row in rows]
    if set(found) != set(phases) or found != sorted(found):
        got = ", ".join(repr(phase[:50]) for phase in sorted(set(found))[:3]) or "no round"
        wanted = " and then of ".join(sorted(phases))
        raise DataError(f"{path} must hold rounds of {wanted}, got {got}: run the step {step} first")
    return rows


def check_data(path: Path, rows: Rows, sizes: Mapping[str, int], step: str) -> None:
    """Checks that a clients.csv is of the clients' data that are there, as far as it has their numbers of examples.

    Args:
        path: the file, for the error.
        rows: its rows.
        sizes: the number of examples by client, as preprocess.json has them. A public set adds as many to each.
        step: which makes the file.

    Raises:
        DataError: a client is missing in `sizes`, or has another number of examples.
    """
    public: set[int] = set()
    for row in rows:
        client, given = row["client"], row.get("num_examples", "")
        if client not in sizes or not given.isdecimal():
            wrong = client not in sizes or given != ""
        else:
            public.add(int(given) - sizes[client])
            wrong = len(public) > 1 or min(public) < 0
        if wrong:
            raise DataError(
                f"{path} must be of the clients in data/clients, got client {client[:50]} with {given[:20] or 'no'} "
                f"examples, where there are {sizes.get(client, 'none')}: run the step {step} again"
            )


def read_clients(path: Path, columns: Sequence[str], num_rounds: int, step: str) -> Rows:
    """Returns the rows of a clients.csv that goes with a rounds.csv of `num_rounds` rounds.

    Raises:
        DataError: no such file, a missing column, a round that rounds.csv does not have, a client that cannot be one,
            or a client twice in a round.
    """
    rows = read_rows(path, ["round", "client", *columns])
    allowed, seen = {str(number) for number in range(1, num_rounds + 1)}, set()
    for number, row in enumerate(rows, start=1):
        key = row["round"], row["client"]
        if row["round"] not in allowed or key in seen:
            raise DataError(
                f"{path} must hold each client once a round, of the {num_rounds} in rounds.csv, got client "
                f"{row['client'][:50]!r} of round {row['round'][:50]!r} in row {number}: run the step {step} again"
            )
        seen.add(key)
        try:
            check_client_id(row["client"])
        except DataError as exc:
            raise DataError(f"{path}, row {number}: {str(exc)[:300]}: run the step {step} again") from exc
    return rows
