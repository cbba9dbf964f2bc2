"""`partition`: how the examples are divided over the clients."""

from typing import Literal, get_args

from tasks.settings.base import MOST_CLIENTS, Section, setting

PartitionKind = Literal[
    "iid", "dirichlet", "label_mix", "shards", "classes", "quantity", "feature_noise", "feature_shift", "natural"
]


class PartitionSettings(Section):
    """How the examples are divided over the clients."""

    kind: PartitionKind = setting(
        "dirichlet", title="Kind", description="rule that divides the examples over the clients"
    )
    seed: int = setting(
        -1,
        ge=-1,
        lt=2**31,
        title="Seed",
        description="seed of the hold-out data and of the clients' examples; fix it to keep the same clients while the "
        "run's seed changes; -1: the run's seed",
    )
    num_clients: int = setting(
        10,
        ge=1,
        le=MOST_CLIENTS,
        title="Clients",
        description="number of clients",
        used_by=tuple(kind for kind in get_args(PartitionKind) if kind != "natural"),
    )
    min_examples: int = setting(
        10,
        ge=0,
        title="Fewest examples",
        description="fewest examples of a client; 0: no limit, and clients without examples are left out and named",
    )
    alpha: float = setting(
        0.5,
        gt=0,
        title="Dirichlet alpha",
        description="concentration of the Dirichlet draw; smaller: more skew; to infinity: no skew",
        used_by=("dirichlet", "label_mix", "quantity"),
    )
    shards_per_client: int = setting(
        2,
        ge=1,
        title="Shards",
        description="shards per client; a shard is a part of the examples sorted by label",
        used_by=("shards",),
    )
    classes_per_client: int = setting(
        2, ge=1, title="Classes", description="most classes of a client", used_by=("classes",)
    )
    law: Literal["dirichlet", "power"] = setting(
        "dirichlet",
        title="Law of sizes",
        description="law of the clients' sizes; dirichlet: random, by alpha; power: by exponent",
        used_by=("quantity",),
    )
    exponent: float = setting(
        1.5,
        gt=0,
        title="Exponent",
        description="with law power, client i = 1, 2, … has a size proportional to i^-exponent; near 0: equal sizes",
        used_by=("quantity",),
    )
    sigma: float = setting(
        0.1,
        ge=0,
        title="Noise variance",
        description="variance of the last client's Gaussian noise, in squared units of the features; client i of K "
        "gets i/K of it; 0: no noise",
        used_by=("feature_noise",),
    )
    brightness: float = setting(
        0.2,
        ge=0,
        le=1,
        title="Brightness",
        description="largest value that is added to or taken from all pixels of a client, as a fraction of the full "
        "range; 0: none",
        used_by=("feature_shift",),
    )
    contrast: float = setting(
        0.2,
        ge=0,
        lt=1,
        title="Contrast",
        description="a client's contrast is multiplied by a factor between 1 - contrast and 1 + contrast; 0: unchanged",
        used_by=("feature_shift",),
    )
    rotation: float = setting(
        15.0,
        ge=0,
        le=180,
        title="Rotation",
        description="largest angle by which a client's images are rotated to either side, in degrees; 0: none",
        used_by=("feature_shift",),
    )
