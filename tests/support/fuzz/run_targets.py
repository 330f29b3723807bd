"""What reads a run's folder and a command line: a new one is one line of `TARGETS`."""

import contextlib
import io
import json
import os
import random
import sys
from pathlib import Path
from typing import Any

from absl import flags

from experiments.run_folder.folder import read_rows
from experiments.run_folder.health import HealthCheck
from experiments.run_folder.results import Results, read_results
from experiments.settings.config import KEYS, ConfigError, default_config
from experiments.settings.record import default_workdir, record
from support.fuzz.damages import ANY, bad_json
from support.fuzz.harness import Target

ROOT = Path(__file__).parents[3]


def _make_metrics(folder: Path) -> None:
    rows = [{"step": 10 * i, "train/loss": 1 / i, "seconds": None} for i in range(1, 30)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def _read_metrics(folder: Path) -> list:
    rows = read_rows(folder)
    settings = {"train_steps": 2000, "tasks_per_step": 32, "chance": 0.2, "agreement": True}
    HealthCheck(**settings, rows=rows).warnings()  # what reads them next
    return rows


def _are_rows(rows: Any, _: Any) -> bool:
    """A changed digit is another number, which nothing here can tell: the types are right."""
    values = [value for row in rows for value in row.values()]
    return all(type(row["step"]) is int for row in rows) and all(
        value is None or type(value) in (int, float) for value in values
    )


def _make_config(folder: Path) -> None:
    record(default_config(), folder)
    (folder / "last").mkdir()


def _read_config(folder: Path) -> str:
    record(default_config(), folder)
    return "goes on"


def _make_results(folder: Path) -> None:
    test = {"accuracy": 0.5, "ci95": 0.1, "num_tasks": 9, "num_steps": 1, "transductive": True}
    test["predicts"] = "meta-learner"
    made = {"method": "maml", "data": "glyphs", "split_hash": "", "graph": None, "seed": 0}
    made |= {"test": test, "test_all": [test], "wall_seconds": 1.5, "warnings": []}
    Results(**made, validation={"accuracy": 0.5, "step": 9}).write(folder)


def _read_results(folder: Path) -> Any:
    return read_results(folder).to_dict()


def command_line(folder: Path, rng: random.Random) -> None:
    """Flags that a hand, a script or an enemy may write."""
    names = [*KEYS, "lr", "data", "model.", "", "data.name.x", "eval.num_step", "__class__", "é"]
    values = ("", "nan", "inf", "-1", "1e400", "9" * 30, "9" * 5000, "True", "()", "(1,", "(1,2,3)")
    values += ("1,2", "None", "'a'", "é漢", "a" * 100_000, "[1]", "{}", "0x10", "1_000", "1.0")
    values += (" 1", "\n", "%s", "{0}", "=", "(1,)*10**9", "9**9**9", "(" * 5000, "-0.0", "1j")
    values += ("__import__('os').system('touch escaped')", "lambda: 0", "1;2", "\x1b[2J")
    configs = ("glyphs.py", "sinusoid.py", "omniglot.py:5way-1shot", "glyphs.py:0way-1shot")
    configs += (
        "glyphs.py:5way-1shot\n",
        "glyphs.py:" + "9" * 5000,
        "sinusoid.py:x",
        "",
        "nosuch.py",
    )
    configs += ("glyphs.py:é", "__init__.py", ".", "glyphs.py:5way-1shot:x", "../setup.cfg", "\n")
    argv = [f"--config=configs/{rng.choice(configs if rng.random() < 0.3 else configs[:3])}"]
    for _ in range(rng.choice((1, 1, 2, 5))):
        name, value = rng.choice(names), rng.choice(values)
        if name in KEYS and rng.random() < 0.3:
            allowed = KEYS[name].allowed or (KEYS[name].default,)
            value = str(rng.choice(list(allowed)))
        form = rng.choice(("--config.{}={}",) * 8 + ("-config.{}={}", "--noconfig.{}", "--{}={}"))
        argv.append(form.format(name, value))
    argv += rng.choice(([],) * 8 + (["--"], ["x"], ["--flagfile=nosuch"], ["--workdir"], ["--=1"]))
    (folder / "argv.json").write_text(json.dumps(argv))


def _make_argv(folder: Path) -> None:
    (folder / "argv.json").write_text(json.dumps(["--config=configs/glyphs.py"]))


def _read_argv(folder: Path) -> str:
    """As the program starts; what it accepts has a folder and a JSON form."""
    import experiments.main  # noqa: F401  its flags
    from experiments.settings.command_line import parse_flags

    argv = json.loads((folder / "argv.json").read_text())
    os.chdir(ROOT)
    sys.argv = ["main", *argv]  # config_flags reads these as well
    spoken = io.StringIO()
    try:
        with contextlib.redirect_stderr(spoken):
            parse_flags(sys.argv)
    except SystemExit as end:
        line = spoken.getvalue().removesuffix("\n")
        if end.code == 2 and line.startswith("error: "):
            raise ConfigError(line) from None
        raise AssertionError(f"ended with {end.code}: {line}") from None
    return str(default_workdir(flags.FLAGS["config"].config_filename, flags.FLAGS.config))


_WRONG, _JSON = ("ConfigError", "ValueError"), (*ANY, bad_json)
TARGETS = {
    "metrics.jsonl": Target(_make_metrics, _read_metrics, _WRONG, 120, _JSON, _are_rows),
    "config.json": Target(_make_config, _read_config, _WRONG, 90, _JSON),
    "results.json": Target(
        _make_results, _read_results, _WRONG, 90, _JSON, lambda read, _: type(read) is dict
    ),
    "command line": Target(
        _make_argv, _read_argv, _WRONG, 400, (command_line,), lambda read, _: read[:5] == "runs/"
    ),
}
