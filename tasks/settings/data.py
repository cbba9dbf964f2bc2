"""`data`: where the raw data comes from."""

from typing import Literal

from tasks.settings.base import MOST_CLIENTS, ClientIds, ColumnNames, Section, setting

DataKind = Literal["digits", "npz", "clients", "images", "table", "synthetic"]

Missing = Literal["refuse", "mean", "median", "most_frequent"]


class DataSettings(Section):
    """Where the raw data comes from."""

    kind: DataKind = setting("digits", title="Kind", description="where the raw data comes from")
    path: str = setting(
        "tasks/datasets",
        min_length=1,
        title="Path",
        description="file or folder of the raw data, a DVC dependency; the default serves the embedded kinds",
        used_by=("npz", "clients", "images", "table"),
    )
    test_fraction: float = setting(
        0.2,
        gt=0,
        lt=1,
        title="Test fraction",
        description="share of the examples held out, stratified by label, where the data has no test set of its own",
    )
    label_column: str = setting(
        "label",
        min_length=1,
        title="Label column",
        description="column of the labels",
        used_by=("table",),
    )
    client_column: str = setting(
        "", title="Client column", description="column of the client ids; empty: none", used_by=("table",)
    )
    drop_columns: ColumnNames = setting(
        (),
        title="Columns left out",
        description="columns that are no features, such as an id",
        used_by=("table",),
    )
    missing: Missing = setting(
        "refuse",
        title="Missing values",
        description="what fills a missing number, taken from the training rows; missing text is filled with the most "
        "frequent",
        used_by=("table",),
    )
    group_column: str = setting(
        "",
        title="Group column",
        description="column of what must not be parted, such as patients: none is in training and hold-out both, and "
        "the column is no feature; empty: none",
        used_by=("images", "table"),
    )
    hold_out_clients: ClientIds = setting(
        (),
        title="Hold out clients",
        description="clients that are the hold-out set, whole, in place of test_fraction of all examples; empty: none",
        used_by=("clients", "images", "table", "synthetic"),
    )
    skip_unreadable: bool = setting(
        False,
        title="Skip unreadable",
        description="leave out records that cannot be read, counted by client; else the first one ends the run",
        used_by=("npz", "clients", "images", "table"),
    )
    alpha: float = setting(
        1.0,
        ge=0,
        title="Synthetic alpha",
        description="sd of the clients' model means in FedProx's Synthetic(alpha, beta); shifts all logits alike",
        used_by=("synthetic",),
    )
    beta: float = setting(
        1.0,
        ge=0,
        title="Synthetic beta",
        description="how much the clients' features differ, Synthetic(alpha, beta) of FedProx",
        used_by=("synthetic",),
    )
    num_clients: int = setting(
        30,
        ge=1,
        le=MOST_CLIENTS,
        title="Synthetic clients",
        description="clients drawn",
        used_by=("synthetic",),
    )
