"""The numbers that decide: what is proposed as a cause, who is called faulty, what counts as proven.

Each entry says what it bounds, its unit, and its origin:

- *Theory*: it follows from the method.
- *Measured*: the entry says on which runs.
- *Tuned*: chosen on the even seeds of the planted suite (tests/benchmarks/planted/README.md).
- *By hand*: chosen before that suite existed, and not varied since; all figures of the suite are with this value.
- *By hand; not measured*: the history names no run that it was chosen on.

"Log loss" is the natural logarithm of the loss, without unit. "The rise" is ln(loss / level before the rise), mean over
the rounds that are compared; a share of the rise is 1 if the loss stays at that level.
"""

# The steps of local training: the learning rate times the largest curvature of the loss, without unit.
STEEP = 2.0
"""Above it, a step of gradient descent overshoots farther than it came. Origin: theory; a parabola diverges."""
TOO_STEEP = 3.0
"""Above it, local training itself diverges, and honest updates have any length. Origin: by hand; 2 for a parabola."""

# A client's data, under the model before the rise.
CONFLICT_LOSS = 2.0
"""A loss above this times the expected one contradicts the model (with CONFLICT_ACCURACY). Origin: by hand."""
CONFLICT_ACCURACY = 0.3
"""An accuracy this far below the expected one contradicts the model, a fraction of the examples. Also the fraction that
must be wrong at least where the loss is above FAR_WORSE. Origin: by hand."""
WORSE = 1.5
"""A loss at most this times the client's usual loss is as ever: its data did not change. Origin: tuned."""
FAR_WORSE = 3.0
"""A loss above this times the client's usual loss contradicts the model, also where the model is wrong about hold-out
data with the same labels. Origin: tuned."""
WORSE_ACCURACY = 0.1
"""An accuracy this far below the expected one is worse, a fraction of the examples. Origin: tuned."""
SHIFTED = 0.35
"""Features farther than this from the hold-out data's are shifted, in their standard deviations. Origin: by hand."""
STRUCTURED = 0.4
"""Features that hang together more than this times as much as the hold-out data's are no noise. Origin: tuned."""
SAME_RELATIVE = 1e-3
"""Two losses are one loss measured twice if they differ by at most this share, and SAME_ABSOLUTE. Origin: measured; the
same data repeat a loss to 1e-7 (float32), and the smallest difference that other data made was 6e-3."""
SAME_ABSOLUTE = 1e-5
"""Difference of two losses, nats, that is always allowed: a loss of 0 has no share. Origin: by hand; not measured."""
LEARNABLE = 0.5
"""Labels make sense if a model that is trained on half of the client's data gains more than this share of the way from
the most frequent label's accuracy to the expected accuracy. Origin: by hand; not measured."""
BEYOND = 100.0
"""Where local training diverges, a client is blamed for an update that is not finite only if its loss is above this
times the expected one. Of a run that ended, an update longer than this times the median client's is not honest.
Origin: tuned."""
BEYOND_SAYING = 1e3
"""Above this times the expected loss, the evidence gives the loss of a client that failed. Decides a sentence only.
Origin: by hand; not measured."""

# A client's update, from the model before the rise.
ABNORMAL_NORM = 3.0
"""An update longer than this times the median client's is abnormal, in total and per step. Origin: tuned."""
GROWN = 2.0
"""An update longer per step than this times the client's usual one is odd. Origin: tuned."""
FAR_GROWN = 3.0
"""An update longer per step than this times the client's usual one is far too long. Origin: tuned."""
OUTGROWN = 3.5
"""An update has outgrown the others' if it grew by more than this times the median client's growth. Origin: tuned."""
UPHILL = 0.25
"""An update whose cosine to the gradient of the client's own loss is above this goes uphill. Origin: measured on 8 runs
of the even seeds 0 and 2: the median cosine was at least 0.65 for reversed updates, at most -0.13 for honest ones."""
SHORT = 0.2
"""The direction of an update shorter than this times the median client's is noise. Origin: tuned."""
AS_TRAINED = 0.05
"""An update is what training gives if its length is within this share of that length. Origin: by hand; float32 rounds,
and steps that diverge blow that up."""
AGREED = 0.3
"""An update agreed with the others' before the rise if its cosine to their geometric median was above this. Origin:
tuned."""
REVERSED = 0.5
"""An update is reversed if its cosine is below minus this times what it was before the rise. Origin: tuned."""
REVERSED_NORM = 0.5
"""An update can be reversed only if it is longer than this times the median client's. Origin: tuned."""
TURNED_AWAY = 0.15
"""An update longer than before (GROWN) points away from the others' only if its cosine to their geometric median is
below this (and TURNED_BY holds). Origin: tuned."""
TURNED_BY = 0.3
"""An update longer than before (GROWN) points away from the others' only if that cosine fell by more than this since
before the rise. Origin: by hand."""

# The run as a whole.
SKEWED_LABELS = 0.4
"""Labels are skewed above this earth mover's distance of the clients' mixes to the mix of all: 0 alike, 2 no label in
common. Also from which on one client counts as skewed. Origin: by hand."""
SKEWED_SIZES = 0.3
"""Sizes are skewed above this Gini coefficient: 0 all equal, 1 one client has everything. Origin: by hand."""
OVERSHOT = 0.5
"""Local training overshoots if it raises the loss on their own data at more than this share of the honest clients.
Origin: theory; training lowers the loss that it follows."""
UNEQUAL_WORK = 1.5
"""A client works unequally above this times the median client's passes over its data, or below 1 over this. Origin:
by hand."""
APART = 0.1
"""Overfitting is proposed if (1) the training log loss fell by more than this from the first to the second half of the
rise, (2) the hold-out log loss fell by less than half of this, and (3) the two parted by more than this. Origin:
tuned."""
UNSEEN = 0.5
"""The model overfits if the loss on clients' data that it was not trained on lies at least this share of the way from
the loss on its training data to the hold-out loss: 1 if unseen clients are like hold-out data. Origin: theory; the
middle between data like the training data (0) and data like the hold-out data (1)."""

# A replay with one factor changed: shares of the rise.
PROVEN = 0.5
"""A cause is claimed if its removal takes away at least this share, mean over the seeds. Origin: by hand."""
SURE = 0.2
"""And if the lower one-sided 95 % bound of that share is at least this. Origin: by hand."""
REPRODUCED = 0.5
"""The rise came again if the replay without a change rises more than this share of what was logged. Origin: by hand;
not measured."""
HOPELESS = 0.1
"""A candidate that takes away less than this share halfway is dropped. Origin: by hand."""
MARGIN = 0.2
"""A more specific cause is believed if it takes away at most this share less than the best one. A candidate without
evidence of its own is dropped halfway if it is two of these below the best. Origin: by hand."""
REST = 0.2
"""A second cause counts if it takes away at least this share beyond the first. Origin: by hand."""
TOGETHER = 0.6
"""Two causes that explain the rise only together are confirmed on other seeds if they take away at least this share.
Origin: by hand; not measured."""
MORE = 0.05
"""A remedy against two causes is proposed if it takes back at least this share more than the best remedy against the
first, because it changes more. Origin: by hand; not measured."""

# Remedies.
LOWER = (3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
"""A lower learning rate is the run's rate over one of these. Origin: by hand; in steps of 3, the highest rate that
works is missed by less than a factor of 3."""
ENDING = 5
"""The loss at the end of a run is the mean log loss of so many rounds, if the rise began before them. Origin: by hand;
not measured."""
TAKEN_BACK = 0.9
"""A remedy that takes back less than this share of the rise up to the run's end is compared with the next one, if the
rounds that remedies may take are enough. Origin: by hand; the goal for the share in the median."""
CONFIRMED_SEEDS = 3
"""A remedy is confirmed with so many seeds if the rounds that remedies may take are enough. Origin: by hand."""
AS_GOOD = 1e-3
"""A remedy ends worse than doing nothing if its log loss on the hold-out data is higher by more than this. Origin: by
hand; without a client whose updates never counted, sums are rounded in another way."""

# A replay with one factor changed: falls of the log loss.
LASTING = 0.15
"""A second cause with evidence of its own counts if it lowers the log loss by at least this. Origin: tuned."""
REMAINS = 0.1
"""The other loss is still up without the first cause from this log loss above its level on. Origin: tuned."""
HALF_OF_THE_REST = 0.5
"""A second cause with evidence of its own counts if it takes away at least this share of what is left of the other
loss's rise, and LASTING. Origin: tuned."""
NOTHING_HALFWAY = 0.02
"""A second change that lowers the log loss by less than this halfway is dropped. Origin: tuned."""

# A run that ended.
STILL_SOUND = 1.1
"""A model is as good as ever if its val_loss is at most this times the lowest so far. Origin: by hand; not measured."""
BLOWN_UP = 2.0
"""Something is wrong from the round on whose val_loss is above this times the lowest so far; it decides a date only.
Origin: by hand; not measured."""
OWN_STEEP = 10.0
"""One client's steps overshoot because of its data if its steepness is above STEEP, and above this times the median
client's. Origin: by hand; among honest clients of the digits the largest steepness was 2.1 times the median."""
HALF_AS_GOOD = 0.5
"""A more specific cause is believed if its replay gets at least this share as far below the bar (course.py) as the best
replay does. Origin: by hand; not measured."""

# The scale of a rise.
WORST = 1e4
"""A loss counts as at most this times the level before the rise, and as at least 1 over this; also a loss that is not
finite. Origin: by hand; not measured."""
LOWEST_SHARE = -1.5
"""The share of the rise that one seed takes away counts as at least this. Origin: by hand; not measured."""

# A row of clients.csv that is far outside.
OUTLIER_NORM = 2.0
"""An update of one round is an outlier only if it is longer than this times the median client's and the client's usual
one. Origin: tuned; as GROWN."""
OUTLIER_LOSS = 2.0
"""A client's loss of one round is an outlier only if it is above this times the median client's and the client's usual
one. Origin: tuned."""
OUTLIER_TURN = 0.3
"""The cosine of an update of one round is an outlier only if it is below the median client's and the client's usual one
by more than this. Origin: by hand; as TURNED_BY."""

# A model at chance: as good as a guess that knows the class frequencies only.
CHANCE_BROKEN = 1.5
"""A model that never learned was broken by an event if its loss was above this times the loss of chance. Origin: by
hand; a model with small random weights starts at about 1."""
CHANCE_LOST = 0.9
"""A model had learned before if its loss was below this times the loss of chance. Origin: by hand; not measured."""
CHANCE_WORSE = 1.03
"""A rise of a model at chance counts if it goes above this times the loss of chance: then the model is worse than one
that knows nothing. Origin: by hand; not measured."""

# A loss that did not rise, and is higher than it should be.
SHARP = 0.75
"""A judge of the features that gets this share of the hold-out examples right needs no second judge, a fraction.
Origin: by hand; a wrong label then contradicts it three times in four."""
TUNED = 0.4
"""A setting is a choice, and a better one is nearly always found: it is claimed only if the log loss at the end is
higher by more than this, that is by half. Origin: by hand."""
HALF_LEARNED = 0.5
"""Nothing moved if (1) the loss at the end is above this share of the first one, and (2) all steps together, straight
downhill at the slope of the first model, lower it by less than this share. Origin: theory; the halves of one loss."""
