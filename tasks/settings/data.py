"""`data`: where the raw data comes from."""

from typing import Literal

from tasks.settings.base import MOST_CLIENTS, ClientIds, ColumnNames, Section, setting

DataKind = Literal["digits", "npz", "clients", "images", "table", "synthetic"]

Missing = Literal["refuse", "mean", "median", "most_frequent"]


class DataSettings(Section):
    """Where the raw data comes from."""

    kind: DataKind = setting(
        "digits", title="Kind", description="format of the raw data; digits and synthetic are built in"
    )
    path: str = setting(
        "tasks/datasets",
        min_length=1,
        title="Path",
        description="file or folder of the raw data; if it changes, DVC runs the pipeline again; digits and synthetic "
        "need no file and keep the default",
        used_by=("npz", "clients", "images", "table"),
    )
    test_fraction: float = setting(
        0.2,
        gt=0,
        lt=1,
        title="Test fraction",
        description="fraction of the examples that is held out, nearly the same fraction of each label; unused if the "
        "data has its own test set or hold_out_clients is set",
    )
    label_column: str = setting(
        "label",
        min_length=1,
        title="Label column",
        description="name of the column with the labels",
        used_by=("table",),
    )
    client_column: str = setting(
        "", title="Client column", description="name of the column with the client ids; empty: none", used_by=("table",)
    )
    drop_columns: ColumnNames = setting(
        (),
        title="Columns left out",
        description="columns that the model does not get as features, such as an id",
        used_by=("table",),
    )
    missing: Missing = setting(
        "refuse",
        title="Missing values",
        description="value of the training rows that replaces a missing number; a missing text becomes the most "
        "frequent text; refuse: a missing value is an error",
        used_by=("table",),
    )
    group_column: str = setting(
        "",
        title="Group column",
        description="column of groups, such as patients; all examples of a group are in the training data, or all are "
        "in the hold-out data; the column is no feature; empty: no groups",
        used_by=("images", "table"),
    )
    hold_out_clients: ClientIds = setting(
        (),
        title="Hold-out clients",
        description="ids of clients whose examples are the hold-out data, instead of test_fraction; empty: none",
        used_by=("clients", "images", "table", "synthetic"),
    )
    skip_unreadable: bool = setting(
        False,
        title="Skip unreadable",
        description="true: records that cannot be read are left out and counted by client; false: the first of them "
        "ends the run",
        used_by=("npz", "clients", "images", "table"),
    )
    alpha: float = setting(
        1.0,
        ge=0,
        title="Synthetic alpha",
        description="sd of the clients' model means in FedProx's Synthetic(alpha, beta); it changes no example, since "
        "it shifts all logits of an example alike",
        used_by=("synthetic",),
    )
    beta: float = setting(
        1.0,
        ge=0,
        title="Synthetic beta",
        description="sd of the clients' feature means in FedProx's Synthetic(alpha, beta); larger: the clients' "
        "features differ more",
        used_by=("synthetic",),
    )
    num_clients: int = setting(
        30,
        ge=1,
        le=MOST_CLIENTS,
        title="Synthetic clients",
        description="number of clients that are generated",
        used_by=("synthetic",),
    )
