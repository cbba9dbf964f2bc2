"""`make screenshots`: takes the pictures in docs/images, of runs in a temporary clone of the committed code.

It needs a Chromium on PATH, and some minutes. Its servers listen on free ports of 127.0.0.1 and end with it.
"""

import html
import json
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from tests import browser, servers

ROOT = Path(__file__).parents[1]
IMAGES = Path(__file__).parent / "images"

NARROW, PAGE, WIDE = 800, 1000, 1300
"""CSS pixels: the width of a terminal, of a report, and of an application's window."""
SCALE = 1.5
"""Pixels of a picture for each CSS pixel. A README's column is 800 to 1,000 CSS pixels wide."""
COLOURS = 256
"""Colours of a picture's palette: a third of the bytes of a picture without one. 128 spoil the heat maps."""

PLANTED_FAULT = {
    "federate.faults.kind": "reversed_update",
    "federate.faults.clients": '["03"]',
    "federate.faults.from_round": "15",
    "federate.faults.factor": "5.0",
}
MORE_WORK = {"federate.local_work.epochs": "5"}
AGGREGATORS = ("mean", "median", "geometric_median")
CURVES = ("#1f77b4", "#2ca02c", "#d62728")
"""A colour for each aggregator."""
FAULTY_RUNS = 'params.`federate.faults.kind` = "reversed_update"'
"""What a user types into MLflow's search box to see the runs with faulty clients."""
CHARTS = "^(val_loss|val_accuracy|drift)$"
"""What a user types into MLflow's search box for charts."""
UNSHOWN = ".*/|pruned|client|balanced|macro|size"
"""Columns that `dvc exp show` leaves out, so that the table fits the page."""

HIDDEN = "<style>.modebar { display: none }</style>"
"""The buttons of MLflow's charts: they cover a part of a small chart."""
# The button in MLflow's corner that opens a pane to chat with a model.
HIDE_CORNER = """
() => {
  for (let e = document.elementFromPoint(innerWidth - 36, innerHeight - 36); e; e = e.parentElement)
    if (getComputedStyle(e).position === 'fixed') e.style.display = 'none';
}
"""
# Of the page's drop-downs, the one that has this choice.
CHOOSE = """
(text) => {
  const options = [...document.querySelectorAll('select option')];
  const option = options.find(option => option.text === text);
  const menu = option.closest('select');
  menu.value = option.value;
  menu.dispatchEvent(new Event('change', {bubbles: true}));
}
"""
DIAGNOSED = "40 rounds: "
"""The first words of the diagnosis in the log."""
BOTTOM = """
(text) => {
  const found = [...document.querySelectorAll('*')].filter(e => e.innerText?.startsWith(text));
  return found.pop().getBoundingClientRect().bottom;
}
"""
TERMINAL = """<!doctype html><meta charset="utf-8"><style>
body {{ margin: 0; background: #14181d; }}
pre {{ margin: 0; padding: 18px 22px; color: #d7dde4; font: 13px/1.4 "DejaVu Sans Mono", monospace; }}
b {{ color: #7fd1a8; }}
</style><pre>{}</pre>"""


@dataclass(frozen=True)
class Clone:
    """A clone with an environment of its own, in which commands run as in a user's shell.

    Attributes:
        folder: the clone.
        environment: without the settings of the user's Prefect, MLflow and DVC.
    """

    folder: Path
    environment: dict[str, str]

    def run(self, *command: str, **environment: str) -> str:
        """Returns what a command writes on stdout; its errors go to stderr."""
        print("$", *command, file=sys.stderr)
        done = subprocess.run(
            command,
            cwd=self.folder,
            env={**self.environment, **environment},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        return done.stdout


def clone(holder: Path) -> Clone:
    """Clones the committed code into the empty folder `holder`."""
    shell = {name: value for name, value in servers.user_environment(holder / "prefect").items() if name[:4] != "GIT_"}
    made = Clone(
        holder / "undrift",
        {
            **shell,
            **servers.QUIET,
            **dict.fromkeys(("GIT_AUTHOR_NAME", "GIT_COMMITTER_NAME", "LOGNAME", "USER"), "undrift"),
            **dict.fromkeys(("GIT_AUTHOR_EMAIL", "GIT_COMMITTER_EMAIL"), "undrift@example.org"),
        },
    )
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(made.folder)], check=True)
    made.run("git", "checkout", "--quiet", "-B", "main")  # DVC's table shows the branch
    return made


def overrides(*settings: Mapping[str, str]) -> list[str]:
    """Returns the settings as options -S."""
    return [word for each in settings for name, value in each.items() for word in ("-S", f"{name}={value}")]


def run_by_dvc(made: Clone) -> list[tuple[str, str]]:
    """Runs the pipeline as it is and with more local work; returns the commands that compare both, and their output.

    The first run's reports/drift.png is one of the pictures.
    """
    made.run("dvc", "repro")
    shutil.copy(made.folder / "reports/drift.png", IMAGES / "drift.png")
    made.run("git", "commit", "--quiet", "--all", "--allow-empty", "--message", "The run as it is")
    run = ["dvc", "exp", "run", "--name", "five-epochs", *overrides(MORE_WORK)]
    made.run(*run)
    difference = ["dvc", "metrics", "diff"]
    table = ["dvc", "exp", "show", "--only-changed", "--hide-workspace", "--drop", UNSHOWN]
    compared = [(shlex.join(command), made.run(*command, COLUMNS="160")) for command in (difference, table)]
    made.run("git", "checkout", "--quiet", "--", ".")
    return [(shlex.join(run), "…"), *compared]


def run_by_prefect(made: Clone, api: str, *settings: Mapping[str, str]) -> str:
    """Runs the pipeline as a flow run; returns its id, which is also the name of its folder in .runs."""
    runs = made.folder / ".runs"
    before = set(runs.glob("*"))
    made.run("python", "-m", "flows.pipeline", *overrides(*settings), PREFECT_API_URL=f"{api}/api")
    (new,) = (folder for folder in set(runs.glob("*")) - before if (folder / "reports/diagnosis.html").is_file())
    return new.name


def take(page: browser.Page, name: str, size: tuple[int, int]) -> None:
    """Writes the top of the page as docs/images/<name>.png; `size` is its width and height in CSS pixels."""
    page.resize(*size, SCALE)
    time.sleep(3)  # charts are drawn and menus fold after the page has its size
    path = IMAGES / f"{name}.png"
    page.screenshot(path, whole=False)
    with Image.open(path) as picture:
        small = picture.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    small.save(path, optimize=True)


def take_terminal(page: browser.Page, transcript: Sequence[tuple[str, str]], holder: Path) -> None:
    """Takes `dvc`: commands and their output, as a terminal shows them."""
    lines = [f"<b>$ {html.escape(command)}</b>\n{html.escape(output.rstrip())}" for command, output in transcript]
    (holder / "terminal.html").write_text(TERMINAL.format("\n\n".join(lines)), encoding="utf-8")
    page.open((holder / "terminal.html").as_uri())
    page.resize(NARROW, 100)
    page.wait_for("dvc metrics diff")
    take(page, "dvc", (NARROW, round(page.run("document.querySelector('pre').getBoundingClientRect().height"))))


def take_report(page: browser.Page, report: Path) -> None:
    """Takes `report`: the top of a diagnosis, with the charts of the loss, of its replay and of the updates."""
    page.open(report.as_uri())
    page.resize(PAGE, 1000)
    page.wait_for("client 03")
    time.sleep(1)
    bottom = "Math.max(...[2, 3].map(i => document.querySelectorAll('figure')[i].getBoundingClientRect().bottom))"
    take(page, "report", (PAGE, round(page.run(bottom)) + 16))


def take_prefect(page: browser.Page, api: str, flow_run: str) -> None:
    """Takes `prefect`: a flow run with its tasks, and the last lines of its log, down to the diagnosis."""
    page.resize(WIDE, 1400, SCALE)
    page.open(f"{api}/runs/flow-run/{flow_run}")
    page.wait_for("Beginning flow run", "Newest to oldest")
    page.run(f"({CHOOSE})('Newest to oldest')")
    page.wait_for("Finished in state Completed('track", DIAGNOSED)
    time.sleep(2)  # the lines move into their places
    take(page, "prefect", (WIDE, round(page.run(f"({BOTTOM})({json.dumps(DIAGNOSED)})")) + 12))


def take_mlflow(page: browser.Page, mlflow: str) -> None:
    """Takes `mlflow`: the curves of the runs with faulty clients, one for each aggregator."""
    found = _ask(f"{mlflow}/api/2.0/mlflow/runs/search", experiment_ids=["1"], filter=FAULTY_RUNS)["runs"]
    for run, colour in zip(found, CURVES, strict=True):  # MLflow's own may be alike
        set_tag = f"{mlflow}/api/2.0/mlflow/runs/set-tag"
        _ask(set_tag, run_id=run["info"]["run_id"], key="mlflow.runColor", value=colour)
    size = (WIDE, 680)
    page.resize(*size, SCALE)
    view = f"workflowType=machine_learning&compareRunsMode=CHART&searchFilter={urllib.parse.quote(FAULTY_RUNS)}"
    page.open(f"{mlflow}/#/experiments/1/runs?{view}")
    page.wait_for(f"{len(CURVES)} matching runs")
    page.run(f"document.head.insertAdjacentHTML('beforeend', {json.dumps(HIDDEN)})")
    with suppress(AssertionError):  # that pane; older releases have none
        page.click("Close", "button", seconds=10)
    page.click("Search metric charts", "input")
    page.type(CHARTS)
    page.run(f"({HIDE_CORNER})()")
    time.sleep(2)
    take(page, "mlflow", size)


def _ask(url: str, **body: Any) -> Any:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with servers.direct().open(request, timeout=60) as answer:
        return json.load(answer)


def main() -> int:
    """Takes all pictures; returns the exit status."""
    chromium = browser.find()
    if chromium is None:
        print("error: the pictures need chromium on PATH: apt-get install chromium", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the servers end with it
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as stack:
        holder = Path(temporary)
        made = clone(holder)
        compared = run_by_dvc(made)
        api = stack.enter_context(servers.prefect_server(made.environment, holder / "prefect.log"))
        faulty, *_ = [
            run_by_prefect(made, api, PLANTED_FAULT, {"federate.aggregator.kind": kind}) for kind in AGGREGATORS
        ]
        mlflow = stack.enter_context(servers.mlflow_server(made.environment, holder / "mlflow.log", made.folder))
        page = stack.enter_context(browser.browser(chromium, holder / "profile"))
        take_terminal(page, compared, holder)
        take_report(page, made.folder / ".runs" / faulty / "reports/diagnosis.html")
        take_prefect(page, api, faulty)
        take_mlflow(page, mlflow)
    return 0


if __name__ == "__main__":
    sys.exit(main())
