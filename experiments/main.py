"""Trains and tests a meta-learner: `python -m experiments.main --config=configs/glyphs.py`."""

import contextlib
import sys
import traceback
from pathlib import Path

from absl import app, flags, logging
from ml_collections import ConfigDict

from experiments.choices.key import ConfigError
from experiments.machine import allocator, backend, devices, lock, processes
from experiments.machine.stop_signals import handle_stop_signals
from experiments.run import Stopped, run
from experiments.run_folder.folder import RESULTS
from experiments.settings.command_line import CONFIG, WORKDIR, given, parse_flags, tell
from experiments.settings.config import flat
from experiments.settings.record import default_workdir

_EVALUATE = flags.DEFINE_boolean("evaluate", False, "only test a run that is trained")
_ACCEPT = flags.DEFINE_boolean(
    "accept_changes",
    False,
    "resume in a --workdir that was started with other settings: lists them, stores the new ones; "
    "with more train_steps a finished run trains longer, and rates that decay jump up again",
)


def main(_: list[str]) -> None:
    """Runs what the flags ask for; `parse_flags` has checked them."""
    start(CONFIG.value)


def start(config: ConfigDict) -> None:
    """Runs a checked config as the other flags ask for."""
    allocator.restart_with_huge_pages(config.plan.malloc)
    workdir = WORKDIR.value or default_workdir(flags.FLAGS["config"].config_filename, config)
    with _errors_as_lines():
        devices.configure(config.plan.devices, config.plan.compilation_cache, config.precision)
        if processes.may_be_distributed(config.hosts.count):
            processes.join(**config.hosts, settings=_shared(config))
        backend.start()
        if not _EVALUATE.value:
            handle_stop_signals()
        results = run(
            config,
            workdir,
            evaluate_only=_EVALUATE.value,
            accept_changes=_ACCEPT.value,
            given=given(),
        )
        processes.leave()
    if results is not None:
        print(f"test of step {results.validation['step']}: {results}")
        print(f"all results: {Path(workdir).expanduser() / RESULTS}")


def _shared(config) -> bytes:
    """What all processes must have been started with."""
    settings = flat(config)
    own = ("hosts.", "data.dir")
    shared = {name: value for name, value in settings.items() if not name.startswith(own)}
    return repr([sorted(shared.items()), _EVALUATE.value]).encode()


@contextlib.contextmanager
def _errors_as_lines():
    """Every mistake and failure as one line: exit code 2 for a mistake, 1 for a failure."""
    from experiments.run_folder.checkpoints import CheckpointError

    try:
        yield
    except SystemExit as stop:
        processes.end_if_joined(stop.code)
        raise
    except (ConfigError, lock.LockError, backend.BackendError) as error:
        _end(error, 2)
    except (processes.ProcessesError, Stopped) as error:
        _end(error, 1)
    except KeyboardInterrupt:
        _end("interrupted", 1)
    except Exception as error:
        if processes.is_lost_connection(error):
            _end(f"{processes.GONE} ({processes.reason(error)})", 1)
        if isinstance(error, (CheckpointError, FloatingPointError, OSError)):
            logging.vlog(1, "traceback", exc_info=True)
            tell(error)
            processes.end(1)  # at once: what the failure left over would print as it is freed
        if processes.joined():
            traceback.print_exc()
            processes.end(1)
        raise


def _end(error, code):
    logging.vlog(1, "traceback", exc_info=True)
    tell(error)
    processes.end_if_joined(code)
    sys.exit(code)


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
