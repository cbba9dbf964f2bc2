"""`python -m flows.pipeline`: runs the whole pipeline as one Prefect flow run.

The deployment `pipeline` finds its flow in this module.
"""

import argparse
import sys
from pathlib import Path

from flows.prefect_flows.launch import add_settings_options, launch_pipeline
from flows.workspace.overrides import overridden
from flows.workspace.repository import find_repository
from tasks import command


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    parser = command.Parser(
        prog="python -m flows.pipeline",
        description="Run the pipeline as one Prefect flow run, in its own folder below .runs. Uses the Prefect "
        "server at PREFECT_API_URL; if that is not set, starts a temporary server for this command.",
    )
    add_settings_options(parser, "set one setting")
    parser.add_argument(
        "--force", action="store_true", help="use no results from DVC's cache or from a killed run: run every step"
    )
    parser.add_argument("--push", action="store_true", help="at the end, send data and models to DVC's default remote")
    options = parser.parse_args(arguments)
    command.prepare()
    return command.run(lambda: _launch(options))


def _launch(options: argparse.Namespace) -> None:
    repository = find_repository(Path.cwd())
    launch_pipeline(repository, overridden(options.params, options.overrides), options.force, options.push)


if __name__ == "__main__":
    sys.exit(main())

# Imported last: Prefect's import takes seconds, and `--help` must not wait for it.
from flows.prefect_flows.pipeline_flow import pipeline  # noqa: E402

__all__ = ["main", "pipeline"]
