"""A client's update beside the other clients' and beside its own before the rise."""

from dataclasses import dataclass

import numpy as np

from tasks.diagnose.evidence.memory import as_trained
from tasks.diagnose.thresholds import (
    ABNORMAL_NORM,
    AGREED,
    FAR_GROWN,
    GROWN,
    REVERSED,
    REVERSED_NORM,
    SHORT,
    TURNED_AWAY,
    TURNED_BY,
    UPHILL,
)


@dataclass(frozen=True, kw_only=True)
class UpdateFinding:
    """What one client sends from the model before the rise, and what the log says of its updates.

    The first five are of one round. For a client with an odd update whose `sent_over_trained` is not known, they are
    the median of four draws. A measure that is not known is NaN.

    Attributes:
        norm: length of the update over the median client's; NaN if the client failed.
        norm_per_step: length per local step over the median client's length per step.
        grown: length per local step over the client's own median in the 20 rounds before the rise; NaN if it took part
            in none.
        slope: cosine of the update to the gradient of the loss on the client's own data, -1 to 1. Training goes
            downhill: above 0, training did not make this update. NaN if the client does not follow the gradient of its
            own data alone (scaffold, feddyn, mimelite, public examples, clipping with weight decay).
        cosine: of the update to the geometric median of all clients' updates.
        cosine_before: mean of that cosine in the 20 rounds before the rise; NaN if the client took part in none.
        cosine_during: mean of that cosine in the first 10 rounds of the rise; NaN if the client took part in none.
        left_out: ln(hold-out loss of the mean of all clients' models / hold-out loss without this client): above 0, the
            model is better without it; NaN if it failed.
        sent_over_trained: length of an update that the client sent in the rise, over the length that training on its
            data gives from the same model: 1 if it sent that.
    """

    norm: float = np.nan
    norm_per_step: float = np.nan
    grown: float = np.nan
    slope: float = np.nan
    cosine: float = np.nan
    cosine_before: float = np.nan
    cosine_during: float = np.nan
    left_out: float = np.nan
    sent_over_trained: float = np.nan

    @property
    def verified(self) -> bool | None:
        """Whether the client sent what training on its data gives; None if that is not known."""
        return as_trained(self.sent_over_trained) if np.isfinite(self.sent_over_trained) else None

    @property
    def turned(self) -> bool:
        """Whether the update points away from the others', and did not before the rise.

        Unusual data turn an update, too, but have always done so. So one of two must hold:

        1. The update agreed with the others' before the rise and is the reverse now, from the model before the rise and
           in the rounds of the rise.
        2. The update points elsewhere than before, and is longer than before.
        """
        before = self.cosine_before
        is_reversed = (
            before > AGREED
            and self.cosine < -REVERSED * before
            and self.norm > REVERSED_NORM
            and not self.cosine_during > 0
        )
        away = self.grown > GROWN and self.cosine < min(TURNED_AWAY, before - TURNED_BY) and not self.norm < 1
        return bool(is_reversed or away)

    @property
    def uphill(self) -> bool:
        """Whether the update raises the loss on the client's own data, and is long enough to have a direction."""
        return self.slope > UPHILL and not self.norm < SHORT

    @property
    def odd(self) -> bool:
        """Whether the update is worth a second look."""
        return bool(self.turned or self.slope > 0 or self.abnormally_long or self.grown > GROWN)

    @property
    def oversized(self) -> bool:
        """Whether the update is abnormally long, and far longer than the client's before the rise if that is known."""
        return bool(self.abnormally_long and (np.isnan(self.grown) or self.grown > FAR_GROWN))

    @property
    def abnormally_long(self) -> bool:
        """Whether the update is far longer than the median client's, more than its number of steps explains."""
        return bool(min(self.norm, self.norm_per_step) > ABNORMAL_NORM)
