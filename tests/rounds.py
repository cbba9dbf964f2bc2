"""A round with all that its clients sent, and vectors that clients keep."""

from tasks.federate.kept import Kept


def next_round(computations, state, clients):
    """(the state after the round, each client's whole result or `Failed`)."""
    taken = {}
    after, reports = computations.next(state, list(clients), taken.__setitem__)
    return after, [taken.get(place, report) for place, report in enumerate(reports)]


def kept_of(vectors, clients=None):
    """What `clients` keep (None: those with a vector), from the vectors (P,) by client."""
    kept = Kept(clients or vectors, len(next(iter(vectors.values()))))
    writer = kept.writer()
    for client, vector in vectors.items():
        writer.write(client, vector)
    return kept.updated(writer)
