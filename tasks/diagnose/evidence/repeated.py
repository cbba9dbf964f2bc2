"""Did a client send what training on its data gives? Rounds whose model is known are trained again and compared."""

from collections.abc import Collection

import numpy as np

from tasks.diagnose.evidence.logged import sized_signal
from tasks.diagnose.evidence.memory import as_trained, same
from tasks.diagnose.replay.engine import Replayer
from tasks.federate.statistics import gram, update_statistics
from tasks.round_log.read import ClientLog

_ROUNDS = 2
"""Most rounds whose updates are compared."""
_NEAR = 4
"""Most rounds after the last sound one that are run again to reach a round: the replays that decide run them too."""


def sent_over_trained(replays: Replayer, log: ClientLog, suspects: Collection[str], last: int) -> dict[str, float]:
    """Returns by client the length of an update that it sent over what training on its data gives: 1 if it sent that.

    A round is compared if all of these hold:
    1. It is one of the rounds up to `last` that made the rise.
    2. A suspect took part in it of which no ratio other than 1 is known yet.
    3. The model before it is known from a checkpoint, or from rounds that were run again as they were.

    A client is left out of a round if one of these holds:
    1. Its number of examples, its loss before training or its number of steps is not the logged one.
    2. Its update is as long as it should be, and its cosine to the geometric median of the round's updates has the
       other sign. Then it may be reversed; or it is honest, and others turn the median.

    Of several rounds, the first one counts whose update training does not give. The result is empty if the updates of
    most clients differ: then the rounds were run with other settings.

    Args:
        replays: at the checkpoint before the rise.
        log: clients.csv, without rounds of pruning.
        suspects: the clients in question.
        last: last round that may be compared.
    """
    ratios: dict[str, float] = {}
    compared = 0
    for round_num in range(replays.sound_after + 1, last + 1):
        logged = sized_signal(log, round_num, "update_norm")
        clients = [c for c, (num, _) in logged.items() if num == replays.num_examples(c)]
        unclear = {client for client in suspects if as_trained(ratios.get(client, 1.0))}
        near = round_num - 1 in replays.saved or round_num <= replays.sound_after + _NEAR
        if compared == _ROUNDS or not unclear & {*clients} or not near or not replays.reaches(round_num):
            continue
        compared += 1
        for client, ratio in _ratios(replays, log, round_num, clients).items():
            if as_trained(ratios.get(client, 1.0)):
                ratios[client] = ratio
    differing = [client for client, ratio in ratios.items() if not as_trained(ratio)]
    return {} if 2 * len(differing) > len(ratios) else ratios


def _ratios(replays: Replayer, log: ClientLog, round_num: int, clients: Collection[str]) -> dict[str, float]:
    """The ratio of the lengths by client, in one round."""
    norms, steps = (sized_signal(log, round_num, name) for name in ("update_norm", "num_steps"))
    cosines, losses = (sized_signal(log, round_num, name) for name in ("update_cosine_robust", "loss_before"))
    trained = {c: result for c, result in replays.repeated(round_num, list(clients)).items() if result.finite}
    if not trained:
        return {}
    updates = [result.update for result in trained.values()]
    statistics = update_statistics(gram(updates), np.full(len(updates), 1 / len(updates)))
    ratios = {}
    for client, norm, cosine in zip(trained, statistics.norm, statistics.cosine_robust, strict=True):
        if not same(trained[client].loss_before, losses.get(client, (0, np.inf))[1]):
            continue  # trained on other data, or from another model
        if not norm > 0 or steps.get(client, (0, -1))[1] != trained[client].num_steps:
            continue
        ratio, in_log = norms[client][1] / float(norm), cosines.get(client, (0, np.nan))[1]
        turned = abs(in_log + cosine) < abs(in_log - cosine)
        if not (turned and as_trained(ratio)):
            ratios[client] = ratio
    return ratios
