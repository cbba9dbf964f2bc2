"""Do a client's labels follow from its features? Each part of its data is judged by the others."""

import numpy as np

from tasks.clients import Examples
from tasks.diagnose.standing.judges import features, judge_of


def learnable_by_itself(examples: Examples) -> tuple[float, float] | None:
    """Returns (accuracy on data that were not trained on, share of the most frequent label) of a client's own data.

    Labels that are unusual but consistent, as reversed ones, can be learnt; random ones and those of noise cannot. None
    if the client has too few examples, or one label only: then nothing can be learnt or refuted.
    """
    x, y = examples
    judge = judge_of("itself", features, (np.asarray(x, np.float32), y))
    if judge is None:
        return None
    return judge.accuracy, float(np.bincount(y).max() / len(y))
