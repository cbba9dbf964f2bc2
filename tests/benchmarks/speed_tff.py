"""Stock TFF 0.87 for peers_speed.py: `tff.learning.algorithms.build_weighted_fed_avg` in TFF's own worker.

It gets a functional model, which is a quarter faster than a model with variables. Each client's `tf.data` gives our
batches. It is made before the turn, so it costs nothing of the round.
"""

import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("WRAPT_DISABLE_EXTENSIONS", "1")
sys.path.insert(0, str(Path(__file__).parents[2]))

import tensorflow as tf
import tensorflow_federated as tff

from tasks.models import build
from tests.benchmarks.speed_case import BATCH, CLASSES, ORDERS, RATE, Case, Turns, flat, read
from tests.benchmarks.speed_models import MODELS
from tests.oracle import oracle


def datasets(case: Case, round_num: int) -> list[tf.data.Dataset]:
    """Returns the clients' batches of a round."""
    orders = case.orders[(round_num - 1) % ORDERS]
    labels = case.y.astype("int32")
    return [
        tf.data.Dataset.from_tensor_slices((x[order], y[order])).batch(BATCH)
        for x, y, order in zip(case.x, labels, orders, strict=True)
    ]


def main(folder: Path) -> None:
    """Runs the rounds."""
    case, turns = read(folder), Turns()
    data: Any = datasets(case, 1)
    model = tff.learning.models.functional_model_from_keras(
        build(MODELS[case.model], case.x.shape[2:], CLASSES, 0),
        tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        data[0].element_spec,
    )
    with oracle(case.cores) as worker, tff.framework.get_context_stack().install(worker):
        process = tff.learning.algorithms.build_weighted_fed_avg(model, tff.learning.optimizers.build_sgdm(RATE))
        weights = tff.learning.models.ModelWeights(tuple(case.tensors()), ())
        state = process.set_model_weights(process.initialize(), weights)
        while turns.wait(lambda state=state: flat(process.get_model_weights(state).trainable)):
            state = process.next(state, data).state
            turns.done()
            data = datasets(case, turns.round_num + 1)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
