"""Trains and tests a meta-learner: `python -m experiments.main --config=configs/glyphs.py`."""

from pathlib import Path

from absl import app, flags, logging
from ml_collections import config_flags

from experiments import platform
from experiments.command_line import fail, parse_flags
from experiments.config import ConfigError, default_workdir, record
from experiments.metrics import read_json

_CONFIG = config_flags.DEFINE_config_file("config", help_string="FILE.py or FILE.py:5way-1shot")
_WORKDIR = flags.DEFINE_string("workdir", None, "folder of the run, made when it is missing")
_EVALUATE = flags.DEFINE_boolean("evaluate", False, "only test a run that is trained")


def main(_: list[str]) -> None:
    """Runs what the flags ask for; `parse_flags` has checked them."""
    config = _CONFIG.value
    platform.restart_with_huge_pages(config)
    path = flags.FLAGS["config"].config_filename
    workdir = Path(_WORKDIR.value or default_workdir(path, config))
    try:
        record(config, workdir, _EVALUATE.value)
        if (workdir / "results.json").exists() and not _EVALUATE.value:
            read_json(workdir / "results.json")
            print(f"finished: {workdir / 'results.json'} (--evaluate tests it again)")
            return
        print(f"run: {workdir}", flush=True)
        _run(config, workdir)
    except (ConfigError, ValueError) as error:
        logging.vlog(1, "traceback", exc_info=True)
        fail(error, 2)
    except KeyboardInterrupt:
        fail("interrupted", 1)


def _run(config, workdir: Path) -> None:
    # Imported only here: a mistake in the flags is told at once, and the machine must be set up
    # before jax starts.
    platform.configure(config)
    from experiments.checkpoints import CheckpointError, handle_stop_signals
    from experiments.evaluate import describe, evaluate
    from experiments.train import train

    try:
        if not _EVALUATE.value:
            handle_stop_signals()
            if not train(config, workdir):
                fail("stopped before the end: the same command goes on from here", 1)
        results = evaluate(config, workdir)
    except (CheckpointError, FloatingPointError, OSError) as error:
        logging.vlog(1, "traceback", exc_info=True)
        fail(error, 1)
    metric = next(iter(results["validation"]))
    print(f"test of step {results['validation']['step']}: {describe(metric, results['test'])}")
    print(f"all results: {workdir / 'results.json'}")


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
