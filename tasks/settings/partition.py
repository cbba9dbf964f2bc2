"""`partition`: how the examples are divided over the clients."""

from typing import Literal, get_args

from tasks.settings.base import MOST_CLIENTS, Section, setting

PartitionKind = Literal[
    "iid", "dirichlet", "label_mix", "shards", "classes", "quantity", "feature_noise", "feature_shift", "natural"
]


class PartitionSettings(Section):
    """How the examples are divided over the clients."""

    kind: PartitionKind = setting("dirichlet", title="Kind", description="the rule that divides the examples")
    seed: int = setting(
        -1,
        ge=-1,
        lt=2**31,
        title="Seed",
        description="of hold-out and division, to train with other seeds on the same clients; -1: the run's seed",
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
        description="examples that every client must get; 0: clients without any are dropped and reported",
    )
    alpha: float = setting(
        0.3,
        gt=0,
        title="Dirichlet alpha",
        description="concentration; the smaller, the more skewed; to infinity: equal shares",
        used_by=("dirichlet", "label_mix", "quantity"),
    )
    shards_per_client: int = setting(
        2, ge=1, title="Shards", description="label-sorted shards a client", used_by=("shards",)
    )
    classes_per_client: int = setting(
        2, ge=1, title="Classes", description="classes a client holds", used_by=("classes",)
    )
    law: Literal["dirichlet", "power"] = setting(
        "dirichlet",
        title="Law of sizes",
        description="how the clients' sizes are drawn",
        used_by=("quantity",),
    )
    exponent: float = setting(
        1.5,
        gt=0,
        title="Exponent",
        description="size of the i-th client ~ i^-exponent, where law is power",
        used_by=("quantity",),
    )
    sigma: float = setting(
        0.1,
        ge=0,
        title="Noise",
        description="variance of the last client's Gaussian noise, in squared units of the features",
        used_by=("feature_noise",),
    )
    brightness: float = setting(
        0.2,
        ge=0,
        le=1,
        title="Brightness",
        description="largest shift of a client's pixels, a fraction of the full range",
        used_by=("feature_shift",),
    )
    contrast: float = setting(
        0.2,
        ge=0,
        lt=1,
        title="Contrast",
        description="largest relative change of a client's contrast",
        used_by=("feature_shift",),
    )
    rotation: float = setting(
        15.0,
        ge=0,
        le=180,
        title="Rotation",
        description="largest turn of a client's images, degrees",
        used_by=("feature_shift",),
    )
