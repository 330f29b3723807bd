"""The command line and its help. Every mistake is one line, printed before jax is loaded."""

import difflib
import re
import sys
import traceback
from pathlib import Path
from typing import NoReturn

from absl import flags
from ml_collections import config_flags

from experiments.choices.key import ConfigError, describe_key
from experiments.machine.printing import spell_what_cannot_be_printed
from experiments.settings.checks import check
from experiments.settings.config import KEYS, TABLES, unknown_key

CONFIG = config_flags.DEFINE_config_file("config", help_string="FILE.py or FILE.py:5way-1shot")
WORKDIR = flags.DEFINE_string("workdir", None, "folder of the run, made when it is missing")

_given: list[str] = []
_CONFIGS = Path(__file__).parents[2] / "configs"


def parse_flags(argv: list[str]) -> list[str]:
    """Parses the command line and checks the config: `app.run(main, flags_parser=parse_flags)`.

    Prints one line and exits with 2 on any mistake; prints the help and exits with 0 on `--help`.

    Args:
      argv: The command line, the program's name first.

    Returns:
      A list of the program's name alone, since all arguments are flags.
    """
    spell_what_cannot_be_printed()
    if {"--help", "-help", "-h", "-?", "--helpshort", "-helpshort"} & set(argv[1:]):
        print(_help())
        sys.exit(0)
    try:
        file = _check_overrides(flags.FLAGS.read_flags_from_files(argv, force_gnu=False))
        rest = _parse(argv, file)
        if len(rest) > 1:
            hint = f": did you mean --config={rest[1]}" if rest[1].endswith(".py") else ""
            raise ConfigError(
                f"{rest[1]!r} is not a flag{hint or ': every setting is --config.KEY=VALUE'}"
            )
        check(CONFIG.value, _given)
    except (ConfigError, flags.Error) as error:
        fail(error, 2)
    if flags.FLAGS["verbosity"].using_default_value:
        flags.FLAGS.verbosity = -1  # warnings: at absl's default, orbax tells of each file
    return rest


def given() -> list[str]:
    """The settings that the command line names; known after `parse_flags`."""
    return list(_given)


def fail(error: Exception | str, code: int) -> NoReturn:
    """Prints an error as one line and ends the program.

    Args:
      error: What went wrong, and the fix.
      code: The exit code, 2 for a mistake in what was asked for and 1 for a failure of the run.
    """
    tell(error)
    sys.exit(code)


def tell(error: Exception | str) -> None:
    """Prints an error as one line."""
    line = " ".join(str(error).split())
    if len(line) > 900:  # a value in the middle may have any length
        line = f"{line[:500]} ... {line[-300:]}"
    print(f"error: {line}", file=sys.stderr)


def _config_files() -> list[str]:
    """The config files of the project, as a user would write them."""
    return sorted(f"configs/{p.name}" for p in _CONFIGS.glob("*.py") if p.name[0] != "_")


def _check_overrides(argv: list[str]) -> str:
    """Checks the names in `--config.NAME=` and that `--config` names a file; returns this file."""
    path = ""
    for i, argument in enumerate(argv):
        if argument == "--":
            break
        if match := re.match(r"--?(?:no)?config\.([^=]*)", argument):
            if match[1] not in KEYS:
                raise ConfigError(unknown_key(match[1]))
            _given.append(match[1])
        elif match := re.fullmatch(r"--?config(?:=(.*))?", argument, re.DOTALL):
            following = argv[i + 1] if i + 1 < len(argv) else ""
            path = match[1] if match[1] is not None else following
    names = _config_files()
    if not path:
        for argument in argv[1:]:
            name, _, rest = argument.partition("=")
            if difflib.get_close_matches(name.lstrip("-"), ["config"]):
                raise ConfigError(f"no --config: did you mean --config={rest} by {argument}?")
        raise ConfigError(
            f"no --config: choose --config={' or --config='.join(names) or 'FILE.py'}"
        )
    file = path.partition(":")[0]
    if not Path(file).is_file():
        by_stem = {Path(name).stem: name for name in names}
        near = difflib.get_close_matches(Path(file).stem, by_stem, 1)
        hint = f"did you mean {by_stem[near[0]]}?" if near else f"there are {', '.join(names)}"
        raise ConfigError(f"no config file {file}: {hint}")
    return file


def _parse(argv: list[str], file: str) -> list[str]:
    """`FLAGS(argv)`, where each way in which a config file can fail becomes one line."""
    try:
        return flags.FLAGS(argv)
    except ConfigError:
        raise
    except flags.IllegalFlagValueError as error:
        lines = str(error).strip().splitlines()
        if match := re.match(r"flag --config\.([^=]*)=(.*?): ", lines[0]):
            needs = describe_key(KEYS[match[1]])
            raise ConfigError(f"--config.{match[1]}={match[2]}: needs {needs}") from None
        if "get_config() takes 0 positional arguments" in lines[-1]:
            raise ConfigError(f"{file}: this config takes nothing after a colon") from None
        at = re.findall(rf'File "{re.escape(file)}", line (\d+)', str(error))
        raise _told(file, at[-1] if at else None, lines[-1]) from None
    except flags.Error:
        raise
    except Exception as error:  # whatever a config file can raise
        frames = traceback.extract_tb(error.__traceback__)
        line = next((frame.lineno for frame in reversed(frames) if frame.filename == file), None)
        message = f"{type(error).__name__}: {error}"
        if match := re.match(r"AttributeError: .?Key \"(\w+)\" does not exist", message):
            message = unknown_key(match[1])
        raise _told(file, line, message) from None


def _told(file: str, line: int | str | None, message: str) -> ConfigError:
    """An error in a config file: its place, and the start of its message."""
    return ConfigError(f"{file}{f':{line}' if line else ''}: {message.splitlines()[0][:200]}")


def _help() -> str:
    """The text of `--help`: the settings that are always read, then those of each choice."""
    lines = [
        "Trains a meta-learner, then tests the checkpoint that was best in validation:",
        "  python -m experiments.main --config=configs/FILE.py:5way-1shot --config.seed=1",
        "Some files take a string after a colon. The same command resumes a run.",
        "",
        "Config files: " + ", ".join(_config_files()),
        "",
        "  --workdir=FOLDER   the run's folder (default: runs/CONFIG-METHOD-HASH)",
        "  --evaluate         only test a run that is trained",
        "  --accept_changes   resume in a --workdir that was started with other settings: lists",
        "                     them, stores the new ones. With more train_steps a finished run",
        "                     trains longer; rates that decay over train_steps jump up again",
        "  --verbosity=1      tracebacks, and what every library logs (--helpfull: all flags)",
        "",
        "Settings, with the defaults that a config file may change:",
    ]
    grouped: dict[str, dict[str, list[str]]] = {title: {} for title in _GROUPS}
    for name in KEYS:
        table = next((t for t in TABLES if any(name in keys for keys in TABLES[t].values())), "")
        grouped[_group(name, table)].setdefault(_readers(name, table), []).append(name)
    for title, by_readers in grouped.items():
        lines += ["", title]
        for readers in sorted(by_readers, key=lambda text: (bool(text), "=" in text, -len(text))):
            lines += [f"  {readers}"] if readers else []
            lines += map(_help_line, by_readers[readers])
    return "\n".join(lines)


# The groups of --help: how the names of their settings begin, and those of the tables whose rows
# read the others. The last takes what is left.
_GROUPS = {
    "Data set": ("data.",),
    "Network": ("model.",),
    "Method": ("method", "inner_optimizer", "loss"),
    "Co-learner": ("co_learner",),
    "Task weights": ("weighting",),
    "Outer loop": (
        "outer_",
        "weight_decay",
        "max_gradient",
        "tasks_per",
        "train_",
        "non_",
        "init_",
    ),
    "Evaluation": ("eval.", "metric"),
    "Program": ("",),
}


def _group(name: str, table: str) -> str:
    by_name = next(title for title, begin in _GROUPS.items() if name.startswith(begin))
    if by_name != "Program" or not table:
        return by_name
    return next(title for title, begin in _GROUPS.items() if table.startswith(begin))


def _readers(name: str, table: str) -> str:
    """Which rows read a setting: "Read by method=anil, boil:"; "" where it is always read."""
    if not table:
        return ""
    rows = {row: name in keys for row, keys in TABLES[table].items() if row}
    read, others = ([row for row, reads in rows.items() if reads == own] for own in (True, False))
    if len(others) < len(read) and len(read) > 3:
        return f"Read by every {table}{' but ' if others else ''}{', '.join(others)}:"
    return f"Read by {table}={', '.join(read)}:"


def _help_line(name: str) -> str:
    key = KEYS[name]
    said = f"    --config.{name}={key.default!r}".ljust(44)
    return f"{said} {key.meaning} [{describe_key(key)}]"
