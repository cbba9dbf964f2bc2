"""Diagnoses the log of another framework: `python -m flows.diagnose FILE --from flower`."""

import logging
import shutil
import tempfile
from pathlib import Path

from flows.mlflow_store.run_logs import WRITTEN
from tasks import outputs
from tasks.diagnose import diagnose_logs
from tasks.diagnose.diagnosis import Diagnosis
from tasks.errors import InputError
from tasks.round_log.flower import read_flower
from tasks.round_log.nvflare import read_nvflare
from tasks.settings import Settings

READERS = {"flower": read_flower, "nvflare": read_nvflare}
"""Framework → the reader of its log."""

_log = logging.getLogger(__name__)


def diagnose_file(path: Path, framework: str) -> Diagnosis:
    """Diagnoses the log at `path`, and writes WRITTEN beside it.

    Nothing can be replayed: another framework's log comes without the clients' data.

    Raises:
        InputError: `framework` is not in READERS, or `path` is a folder, or the file is not a log of `framework`.
            Earlier files beside it stay as they were.
    """
    if framework not in READERS:
        raise InputError(f"--from must be {' or '.join(READERS)}, got {framework!r}")
    if path.is_dir():
        raise InputError(f"with --from, RUN must be a file, got the folder {path}")
    with tempfile.TemporaryDirectory() as holder, outputs.renewed([path.parent / name for name in WRITTEN]):
        log = READERS[framework](path)
        log.write(Path(holder))
        answer = diagnose_logs(Path(holder), Settings(), None, log.says)
        for name in WRITTEN:
            shutil.copyfile(Path(holder, name), path.parent / name)
    _log.info("report: %s", path.parent / "diagnosis.html")
    return answer
