"""The record of a run's settings: its default folder, and what has changed when it resumes."""

import hashlib
import json
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from experiments.choices.key import ConfigError
from experiments.run_folder import folder
from experiments.run_folder.folder import read_json, write_json
from experiments.settings.config import (
    KEYS,
    OWN_PROBLEM,
    default_config,
    flat,
    keys_read,
    may_change_on_resume,
)


def default_workdir(config_path: str, config: ConfigDict) -> Path:
    """`runs/CONFIG-METHOD-HASH`: the same settings give the same folder, so a command resumes.

    Args:
      config_path: The value of `--config`, such as `configs/glyphs.py:5way-1shot`.
      config: The checked config.

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
    """Writes `config.json` before training has begun; afterwards compares the config with it.

    Training has begun where there are reports or checkpoints. Then these settings may differ:
    plan.*, hosts.*, data.dir, eval.num_tasks, eval.num_steps, eval.analyze_every, tensorboard,
    non_finite, checkpoint_every_minutes and log_every_seconds; with `evaluate`, all of eval.*.

    Args:
      config: The checked config.
      workdir: The run's folder, which is made here.
      evaluate: Whether the run is only evaluated; then it must exist.
      accept_changes: Whether changed settings are accepted; `rewrite` stores them once a checkpoint
        has been found to fit them.

    Returns:
      The settings that differ and were accepted, as `name old -> new`.

    Raises:
      ConfigError: The run was started with other settings (and they were not accepted, or
        train_steps is lower, or init_from is another), its `config.json` is unreadable, or there
        is no run to evaluate.
    """
    workdir = Path(workdir)
    path, reports = workdir / folder.CONFIG, workdir / folder.METRICS
    if not (workdir / folder.LAST).exists() and not (reports.exists() and reports.stat().st_size):
        if evaluate:
            raise ConfigError(f"no run in {workdir}: train it first (the same without --evaluate)")
        try:
            write_json(path, flat(config))
        except OSError as error:
            raise ConfigError(error) from None
        return []
    before = _recorded(path)
    if config.train_steps < before["train_steps"]:
        raise ConfigError(
            f"train_steps={config.train_steps} but {workdir} was started with "
            f"{before['train_steps']}: a run can only be made longer, by --accept_changes"
        )
    if config.init_from != before["init_from"]:
        raise ConfigError(
            f"init_from={config.init_from!r} but {workdir} was started with "
            f"{before['init_from']!r}: set it back, or choose another --workdir"
        )
    differing = changed(config, workdir)
    if evaluate:
        differing = [line for line in differing if not line.startswith("eval.")]
    if differing and not accept_changes:
        raise ConfigError(
            f"{workdir} was started with other settings ({', '.join(differing)}): set them back, "
            "choose another --workdir, or resume with the new ones by --accept_changes"
        )
    return differing


def recorded(workdir: Path) -> ConfigDict:
    """The config that a run was started with, from its `config.json`.

    Args:
      workdir: The run's folder.

    Raises:
      ConfigError: There is no run in the folder, or its `config.json` is not what this version
        writes.
    """
    path = Path(workdir, folder.CONFIG)
    if not path.exists():
        raise ConfigError(f"no run in {workdir}: choose the --workdir of one that is trained")
    config = default_config()
    for name, value in _recorded(path).items():
        *section, leaf = name.split(".")
        node = config[section[0]] if section else config
        try:
            node[leaf] = tuple(value) if isinstance(value, list) else value
        except (KeyError, TypeError):
            raise ConfigError(
                f"{path} has {name}={value!r}, which this version does not know: correct it"
            ) from None
    return config


def changed(config: ConfigDict, workdir: Path) -> list[str]:
    """The settings that are not what the run was started with, as `name old -> new`.

    Args:
      config: The checked config.
      workdir: The run's folder.

    Raises:
      ConfigError: The folder's `config.json` is unreadable.
    """
    path = Path(workdir, folder.CONFIG)
    if not path.exists():  # trained from Python, without a record
        return []
    before, now = _recorded(path), json.loads(json.dumps(flat(config)))
    return [
        f"{name} {before.get(name)!r} -> {now.get(name)!r}"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name) and not may_change_on_resume(name)
    ]


def rewrite(config: ConfigDict, workdir: Path) -> None:
    """Stores changed settings in `config.json` and deletes `results.json`, made with the old ones.

    Args:
      config: The checked config, which the checkpoints fit.
      workdir: The run's folder.
    """
    if not changed(config, workdir):
        return
    # In this order: stopped in between, the next start finds the change again.
    Path(workdir, folder.RESULTS).unlink(missing_ok=True)
    write_json(Path(workdir, folder.CONFIG), flat(config))


def record_data(digest: str, workdir: Path, compare: bool) -> None:
    """Writes `data.json`, the digest of what a run is trained on, or compares with it.

    Args:
      digest: The digest of the data; "" where tasks are procedural.
      workdir: The run's folder.
      compare: Whether training has begun with these settings; then the data must be the same.

    Raises:
      ConfigError: The run was trained on other data.
    """
    path = Path(workdir, folder.DATA)
    if not compare:
        write_json(path, {"digest": digest})
    elif path.exists() and read_json(path).get("digest") != digest:
        raise ConfigError(
            f"{workdir} was trained on other data or classes: restore the files (data.dir, "
            "data.file, data.split_file), or choose another --workdir"
        )


def settings_of(workdir: Path, data: str = "") -> dict[str, Any]:
    """What the chosen rows read of a run's settings, by dotted names; {} without `config.json`.

    Args:
      workdir: The run's folder.
      data: What the run's results call its data: where this is not `data.name`, the problem was the
        caller's own, and what only the program's problems read is left out.

    Raises:
      ConfigError: The folder's `config.json` is unreadable.
    """
    path = Path(workdir, folder.CONFIG)
    if not path.exists():
        return {}
    values = _recorded(path)
    own = bool(data) and data != values["data.name"]
    return {name: values[name] for name in keys_read(values, OWN_PROBLEM if own else ())}


def _recorded(path: Path) -> dict[str, Any]:
    try:
        before = {name: key.default for name, key in KEYS.items()} | read_json(path)
        if type(before["train_steps"]) is not int:
            raise ValueError
        return json.loads(json.dumps(before))
    except ValueError:
        raise ConfigError(f"{path} is unreadable: restore it or choose another --workdir") from None
