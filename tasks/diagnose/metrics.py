"""The answer in five values, for `dvc metrics` and `dvc exp show`."""

from tasks.diagnose.diagnosis import Diagnosis


def to_metrics(diagnosis: Diagnosis) -> dict[str, dict[str, str | int | float | None]]:
    """Returns diagnosis_metrics.json.

    Its keys:

    - `verdict` and `question`: as in diagnosis.json.
    - `round`: the first round of the rise, or of the first cause where nothing rose.
    - `loss`, `reference`: as `harm` in diagnosis.json, nats per example.

    A value that is not known is None. DVC leaves it out: `dvc metrics diff` shows `-`. All keys are below `diagnosis`,
    because DVC adds the file's name to a key that two metrics files have, and metrics.json has a `loss` too.
    """
    round_num, harm = diagnosis.rise.round, diagnosis.harm
    if round_num is None and diagnosis.causes:
        round_num = diagnosis.causes[0].rounds[0]
    values = {
        "verdict": diagnosis.verdict,
        "question": diagnosis.question,
        "round": round_num,
        "loss": None if harm is None else harm.loss,
        "reference": None if harm is None else harm.reference,
    }
    return {"diagnosis": values}
