"""The clients' data on disk: the ids, and how the arrays are written, read and checked.

Only this package writes and reads these arrays.
"""

from tasks.clients.ids import check_client_id, client_sizes
from tasks.clients.preprocessed import (
    CLIENTS,
    Preprocessed,
    form_of,
    read_hold_out,
    read_preprocessed,
    statistics_of,
    typical_example,
)
from tasks.clients.reading import (
    Examples,
    check_arrays,
    check_labels,
    check_values,
    digest_of,
    mean_and_sd,
    normalised,
    read_checked,
    read_client,
    read_raw,
    read_raw_checked,
    to_publish,
)
from tasks.clients.shards import TEST, TEST_SHARD, Form, Raw, Stored, find, shards, writing

__all__ = [
    "CLIENTS",
    "TEST",
    "TEST_SHARD",
    "Examples",
    "Form",
    "Preprocessed",
    "Raw",
    "Stored",
    "check_arrays",
    "check_client_id",
    "check_labels",
    "check_values",
    "client_sizes",
    "digest_of",
    "find",
    "form_of",
    "mean_and_sd",
    "normalised",
    "read_checked",
    "read_client",
    "read_hold_out",
    "read_preprocessed",
    "read_raw",
    "read_raw_checked",
    "shards",
    "statistics_of",
    "to_publish",
    "typical_example",
    "writing",
]
