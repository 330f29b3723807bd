"""The settings that a run was started with: its folder, and what has changed when it goes on."""

import hashlib
import json
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from experiments.choices.key import ConfigError
from experiments.run_folder.folder import read_json, write_json
from experiments.settings.config import KEYS, flat, may_change_on_resume


def default_workdir(config_path: str, config: ConfigDict) -> Path:
    """`runs/CONFIG-METHOD-HASH`: the same settings give the same folder, so a command resumes.

    Args:
      config_path: the value of `--config`, as in `configs/glyphs.py:5way-1shot`.
      config: the checked config.

    Returns:
      A relative path. The hash covers what `record` compares.
    """
    file, _, text = config_path.partition(":")
    name = "-".join(part for part in (Path(file).stem, text, config.method) if part)
    settings = {
        name: value for name, value in flat(config).items() if not may_change_on_resume(name)
    }
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    return Path("runs") / f"{name}-{digest[:8]}"


def record(
    config: ConfigDict, workdir: Path, evaluate: bool = False, accept_changes: bool = False
) -> list[str]:
    """Writes `config.json` until training has begun (there are reports), then compares with it.

    Free to differ: plan.*, hosts.*, data.dir, eval.num_tasks, eval.num_steps, tensorboard,
    checkpoint_every_minutes, log_every_seconds and non_finite; with `evaluate`, all of eval.*.

    Args:
      config: the checked config.
      workdir: the run's folder; made here.
      evaluate: the run is only evaluated, so it must exist.
      accept_changes: go on with other settings; `rewrite` stores them once a checkpoint fits them.

    Returns:
      The settings that differ and were accepted, as `name old -> new`.

    Raises:
      ConfigError: the run was started with other settings (and they were not accepted, or
        train_steps is lower), its `config.json` is unreadable, or there is no run to evaluate.
    """
    workdir = Path(workdir)
    path, reports = workdir / "config.json", workdir / "metrics.jsonl"
    if not (workdir / "last").exists() and not (reports.exists() and reports.stat().st_size):
        if evaluate:
            raise ConfigError(f"no run in {workdir}: train it first (the same without --evaluate)")
        try:
            write_json(path, flat(config))
        except OSError as error:
            raise ConfigError(error) from None
        return []
    before, now = _recorded(path), flat(config)
    if now["train_steps"] < before["train_steps"]:
        raise ConfigError(
            f"train_steps={now['train_steps']} but {workdir} was started with "
            f"{before['train_steps']}: a run can only be made longer, by --accept_changes"
        )
    differing = changed(config, workdir)
    if evaluate:
        differing = [line for line in differing if not line.startswith("eval.")]
    if differing and not accept_changes:
        raise ConfigError(
            f"{workdir} was started with other settings ({', '.join(differing)}): set them back, "
            "choose another --workdir, or go on with the new ones by --accept_changes"
        )
    return differing


def changed(config: ConfigDict, workdir: Path) -> list[str]:
    """The settings that a run was started with and that are others now, as `name old -> new`.

    Args:
      config: the checked config.
      workdir: the run's folder.
    """
    path = Path(workdir) / "config.json"
    if not path.exists():  # trained from Python, without a record
        return []
    before, now = _recorded(path), json.loads(json.dumps(flat(config)))
    return [
        f"{name} {before.get(name)!r} -> {now.get(name)!r}"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name) and not may_change_on_resume(name)
    ]


def rewrite(config: ConfigDict, workdir: Path) -> None:
    """Stores changed settings in `config.json`; `results.json`, which is of the old ones, goes.

    Args:
      config: the checked config, which the checkpoints fit.
      workdir: the run's folder.
    """
    if not changed(config, workdir):
        return
    # In this order: were it stopped in between, the next start would find the change again.
    (Path(workdir) / "results.json").unlink(missing_ok=True)
    write_json(Path(workdir) / "config.json", flat(config))


def record_data(digest: str, workdir: Path, compare: bool) -> bool:
    """Writes `data.json`, what a run is trained on, or compares with it where it is there.

    Args:
      digest: of the data; "" where tasks are procedural.
      workdir: the run's folder.
      compare: the run has begun, with these settings.

    Returns:
      True.

    Raises:
      ConfigError: the run was trained on other data.
    """
    path = Path(workdir) / "data.json"
    if not compare:
        write_json(path, {"digest": digest})
    elif path.exists() and read_json(path).get("digest") != digest:
        raise ConfigError(
            f"{workdir} was trained on other data or classes: restore the files (data.dir, "
            "data.file, data.split_file), or choose another --workdir"
        )
    return True


def _recorded(path: Path) -> dict[str, Any]:
    try:
        before = {name: key.default for name, key in KEYS.items()} | read_json(path)
        if type(before["train_steps"]) is not int:
            raise ValueError
        return json.loads(json.dumps(before))
    except ValueError:
        raise ConfigError(f"{path} is unreadable: restore it or choose another --workdir") from None
