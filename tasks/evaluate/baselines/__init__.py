"""`evaluate.baselines`: does the federation pay, and for whom?

The global model is compared with two others of the same architecture and the same first weights:

1. The pooled model, trained on all clients' data in one place. A simulation can train it, a federation could not.
2. Each client's own model, trained on its data alone.

**Budget.** Both train by plain local steps (`federate.client` with kind sgd), with the run's batch size, learning rate
and schedule, momentum, weight decay, clipping and augmentation. A client makes the passes of `federate.local_work` in
each of T rounds. T is the number of rounds in which a client of the run takes part on average: all rounds with
`federate.sampling.kind: all`, and at least 1. The pooled model makes as many passes over all data as the clients do on
average. So all three models see each example equally often. The pooled model takes more steps one after the other.

**Left out.** What only a federation has: public examples, narrower models, a guard, faults of updates, absences. A
fault of the data that is there in the last round of the run is in the data all the time. `federate.exclude` holds.

**Judged.** All models are judged on the hold-out data, on which none was trained. For a client, each class weighs as
much as in the client's own data. What this cannot see: a client whose examples of a class look unlike the hold-out
examples of that class. And each model was trained once, so a difference can be the luck of the seed.
"""
