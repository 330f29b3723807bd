"""Makes the report of a finished run again: `python -m experiments.make_report --workdir=runs/A`.

A run makes its report at its end. This makes it again from what is in the folder, with what
`experiments.analyze` has added since. Tasks are drawn where the data are at hand.
"""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.choices.key import ConfigError
from experiments.machine.printing import spell_what_cannot_be_printed
from experiments.report.run_report import write_report
from experiments.run_folder import folder
from experiments.run_folder.results import read_results
from experiments.settings.command_line import fail
from experiments.settings.config import flat
from experiments.settings.record import recorded

if TYPE_CHECKING:
    from experiments.build import Problem


def main(arguments: list[str] | None = None) -> int:
    """Makes the report of the run that the command line names; returns the exit code."""
    spell_what_cannot_be_printed()
    parser = argparse.ArgumentParser(
        prog="python -m experiments.make_report", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--workdir", required=True, metavar="RUN", help="folder of a finished run")
    try:
        workdir = folder.check_workdir(parser.parse_args(arguments).workdir)
        if not (workdir / folder.RESULTS).is_file():
            raise ValueError(f"{workdir} has no {folder.RESULTS}: let the run come to its end")
        print(f"report: {write_report(workdir, problem_at_hand(workdir))}")
    except (ConfigError, ValueError) as error:
        fail(error, 2)
    except OSError as error:
        fail(error, 1)
    return 0


def problem_at_hand(workdir: Path) -> "Problem | None":
    """What the run learned, made again; None, and a line that says why, where it cannot be.

    Args:
      workdir: The run's folder.
    """
    from experiments import build

    try:
        results, settings = read_results(workdir), flat(recorded(workdir))
        if settings["data.name"] != results.data:
            raise ValueError(f"{results.data} is the caller's own")
        problem = build.problem(settings)
        if problem.split_hash != results.split_hash:
            raise ValueError("the data have changed since")
        return problem
    except (ConfigError, ValueError, OSError) as error:
        print(f"no tasks are drawn: {' '.join(str(error).split())}", file=sys.stderr)
        return None


if __name__ == "__main__":
    sys.exit(main())
