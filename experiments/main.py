"""Trains and tests a meta-learner: `python -m experiments.main --config=configs/glyphs.py`."""

import traceback
from pathlib import Path

from absl import app, flags, logging

from experiments.machine import allocator, devices, lock, processes
from experiments.run_folder.folder import read_json
from experiments.settings.command_line import CONFIG, WORKDIR, fail, parse_flags, tell
from experiments.settings.config import ConfigError
from experiments.settings.record import default_workdir, record

_EVALUATE = flags.DEFINE_boolean("evaluate", False, "only test a run that is trained")
_ACCEPT = flags.DEFINE_boolean(
    "accept_changes",
    False,
    "go on in a --workdir that was started with other settings: lists them, stores the new ones; "
    "with more train_steps a finished run trains longer, and rates that decay jump up again",
)


def main(_: list[str]) -> None:
    """Runs what the flags ask for; `parse_flags` has checked them."""
    config = CONFIG.value
    allocator.restart_with_huge_pages(config)
    path = flags.FLAGS["config"].config_filename
    workdir = Path(WORKDIR.value or default_workdir(path, config)).expanduser()
    try:
        several = processes.may_be_distributed(config)
    except processes.HostsError as error:
        fail(error, 2)
    try:
        _start(config, workdir, several)
    except SystemExit as stop:
        if several:
            processes.end(stop.code)
        raise
    except BaseException:
        if several:
            traceback.print_exc()
            processes.end(1)
        raise


def _start(config, workdir: Path, several: bool) -> None:
    """Runs, with every mistake and failure as one line."""
    held = []  # the lock, until the end
    try:
        if several:
            devices.configure(config)
            processes.join(config, _EVALUATE.value)
        if processes.on_process_zero(lambda: _prepare(config, workdir, held)):
            _run(config, workdir)
        processes.leave()
    except (ConfigError, ValueError, lock.LockError) as error:
        logging.vlog(1, "traceback", exc_info=True)
        fail(error, 2)
    except processes.HostsError as error:
        logging.vlog(1, "traceback", exc_info=True)
        fail(error, 1)
    except KeyboardInterrupt:
        fail("interrupted", 1)
    except Exception as error:
        if not processes.is_lost_connection(error):
            raise
        logging.vlog(1, "traceback", exc_info=True)
        fail(f"{processes.GONE} ({processes.reason(error)})", 1)


def _prepare(config, workdir: Path, held: list) -> bool:
    """Takes the folder and records the config; False where there is nothing left to do."""
    if "://" in (WORKDIR.value or ""):
        raise ConfigError(f"--workdir={WORKDIR.value} is no folder: mount it, or copy it later")
    try:
        if not _EVALUATE.value:
            workdir.mkdir(parents=True, exist_ok=True)
        if workdir.exists():
            held.append(lock.hold(workdir))
            for left in workdir.glob(".*.json*.*"):  # by a process that was killed as it wrote
                left.unlink()
    except OSError as error:
        raise ConfigError(f"cannot write {workdir} ({error.strerror}): choose --workdir") from None
    changed = record(config, workdir, _EVALUATE.value, _ACCEPT.value and not _EVALUATE.value)
    if (workdir / "results.json").exists() and not _EVALUATE.value and not changed:
        read_json(workdir / "results.json")
        print(f"finished: {workdir / 'results.json'} (--evaluate tests it again)")
        return False
    print(f"run: {workdir}", flush=True)
    if changed:
        print(f"accepted: {', '.join(changed)}", flush=True)
    return True


def _run(config, workdir: Path) -> None:
    # Imported only here: a mistake in the flags is told at once, and the machine must be set up
    # before jax starts.
    devices.configure(config)
    from experiments.build import problem as build
    from experiments.evaluate import describe, evaluate
    from experiments.machine.stop_signals import handle_stop_signals
    from experiments.run_folder.checkpoints import CheckpointError
    from experiments.train import train

    path = workdir / "lock"  # process 0 has just written it
    if not processes.same(path.read_bytes() if path.exists() else b""):
        raise ConfigError(f"{workdir} is not one folder on all machines: put it on a shared disk")
    try:
        if not _EVALUATE.value:
            handle_stop_signals()
        problem = build.problem(config)
        if not _EVALUATE.value and not train(config, workdir, problem):
            processes.leave()
            fail("stopped before the end: the same command goes on from here", 1)
        results = evaluate(config, workdir, problem)
    except (CheckpointError, FloatingPointError, OSError) as error:
        if processes.is_lost_connection(error):
            raise
        logging.vlog(1, "traceback", exc_info=True)
        tell(error)
        processes.end(1)  # from here: what the failure left behind would speak as it is freed
    if results is None:
        return
    metric = next(iter(results["validation"]))
    both = any(not row["transductive"] for row in results["test_all"])
    said = describe(metric, results["test"], both)
    print(f"test of step {results['validation']['step']}: {said}")
    print(f"all results: {workdir / 'results.json'}")


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
