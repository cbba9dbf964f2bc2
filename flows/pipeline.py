"""`python -m flows.pipeline`: the whole pipeline as one Prefect flow run, and the flow that its deployment runs."""

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
        description="Run the pipeline as one Prefect flow run in a workspace of its own: with a server when "
        "PREFECT_API_URL is set, without one otherwise.",
    )
    add_settings_options(parser, "a setting to change")
    parser.add_argument("--force", action="store_true", help="run every step, also what is in DVC's cache")
    parser.add_argument("--push", action="store_true", help="send data and models to DVC's default remote at the end")
    options = parser.parse_args(arguments)
    command.prepare()
    return command.run(lambda: _launch(options))


def _launch(options: argparse.Namespace) -> None:
    repository = find_repository(Path.cwd())
    launch_pipeline(repository, overridden(options.params, options.overrides), options.force, options.push)


if __name__ == "__main__":
    sys.exit(main())

# After the command: Prefect's import takes seconds, and `--help` must not wait for it.
from flows.prefect_flows.pipeline_flow import pipeline  # noqa: E402

__all__ = ["main", "pipeline"]
