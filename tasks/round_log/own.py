"""rounds.csv and clients.csv as the steps exchange them. A file that no run of Undrift writes is refused."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from tasks.clients import check_client_id
from tasks.errors import DataError
from tasks.files import Block, read_blocks, read_rows
from tasks.round_log.cells import Rows


def rounds_of_run(path: Path, columns: Sequence[str], phases: Collection[str], step: str) -> Rows:
    """Returns the rows of a rounds.csv, in which round n is the n-th row.

    Args:
        path: the file.
        columns: the columns that are needed in addition to `round` and `phase`.
        phases: the phases that the file must have, `federate` before `prune`, and no other.
        step: the step that writes the file; the errors name it.

    Raises:
        DataError: (1) the file is missing, (2) a column is missing, (3) there is no round, (4) a round is missing,
            doubled or out of place, or (5) a round is of another phase.
    """
    rows = read_rows(path, ["round", "phase", *columns])
    for number, row in enumerate(rows, start=1):
        if row["round"] != str(number):
            raise DataError(
                f"{path} must hold the rounds 1 to {len(rows)} in their order, got {row['round'][:50]!r} in row "
                f"{number}: run the step {step} again"
            )
    written = [row["phase"] for row in rows]
    if set(written) != set(phases) or written != sorted(written):
        got = ", ".join(repr(phase[:50]) for phase in sorted(set(written))[:3]) or "no round"
        wanted = " and then of ".join(sorted(phases))
        raise DataError(f"{path} must hold rounds of {wanted}, got {got}: run the step {step} first")
    return rows


def checked_data(
    path: Path, blocks: Iterable[Block], sizes: Mapping[str, int], step: str, left_out: Collection[str] = ()
) -> Iterator[Block]:
    """Yields `blocks`; checks that a clients.csv and the clients' data belong to one run.

    The clients and their numbers of examples must agree. A row without a number of examples is not compared.

    Args:
        path: the file, for the error.
        blocks: the rows of the file.
        sizes: the number of examples by client, as in preprocess.json. A public set adds the same number to each.
        step: the step that writes the file.
        left_out: clients that are not compared.

    Raises:
        DataError: a client is missing in `sizes`, or has another number of examples.
    """
    public: set[int] = set()
    for block in blocks:
        given = block.column("num_examples") if "num_examples" in block.header else [""] * len(block.rows)
        for client, size in dict.fromkeys(zip(block.column("client"), given, strict=True)):
            if client in left_out:
                continue
            if client not in sizes or not size.isdecimal():
                wrong = client not in sizes or size != ""
            else:
                public.add(int(size) - sizes[client])
                wrong = len(public) > 1 or min(public) < 0
            if wrong:
                raise DataError(
                    f"{path} must belong to the clients in data/clients, got client {client[:50]} with "
                    f"{size[:20] or 'no'} examples, but data/clients has {sizes.get(client, 'none')}: run the step "
                    f"{step} again"
                )
        yield block


def clients_of_run(path: Path, columns: Sequence[str], num_rounds: int, step: str) -> Iterator[Block]:
    """Yields the rows of a clients.csv; checks that they belong to a rounds.csv of `num_rounds` rounds.

    Raises:
        DataError: (1) the file is missing, (2) a column is missing, (3) a round is not in rounds.csv, (4) a client's id
            is not allowed, or (5) a client has two rows in a round.
    """
    place = {str(number): number for number in range(1, num_rounds + 1)}
    seen: dict[str, bytearray] = {}
    for block in read_blocks(path, ["round", "client", *columns]):
        cells = zip(block.column("round"), block.column("client"), strict=True)
        for number, (round_num, client) in enumerate(cells, start=block.first):
            rounds = seen.get(client)
            if rounds is None:
                rounds = seen[client] = bytearray(num_rounds + 1)
                _check_id(path, number, client, step)
            at = place.get(round_num)
            if at is None or rounds[at]:
                raise DataError(
                    f"{path} must have at most one row for a client in each of the {num_rounds} rounds of rounds.csv, "
                    f"got client {client[:50]!r} of round {round_num[:50]!r} in row {number}: run the step {step} again"
                )
            rounds[at] = True
        yield block


def _check_id(path: Path, number: int, client: str, step: str) -> None:
    try:
        check_client_id(client)
    except DataError as exc:
        raise DataError(f"{path}, row {number}: {str(exc)[:300]}: run the step {step} again") from exc
