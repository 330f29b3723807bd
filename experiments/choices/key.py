"""One setting: its default, what it takes, and the one check of a value."""

from collections.abc import Iterable
from typing import Any, NamedTuple


class ConfigError(Exception):
    """A mistake in what the user asked for: one line, shown without a traceback, exit code 2."""


class Key(NamedTuple):
    """One setting.

    Attributes:
      default: The value without a config file; its type is the type of the setting.
      allowed: The choices of a string (a dict maps each to "module:function", which is what the
        program hands on), or the closed interval `(low, high)` of a number or of each number in a
        tuple, or None for anything of the type.
      meaning: One line for `--help`.
      length: How many elements a tuple must have; 0 is any number. A tuple of length one is handed
        on as its element.
    """

    default: Any
    allowed: tuple | dict | None
    meaning: str
    length: int = 0


COUNT = (1, 2**31 - 1)
_TYPE_NAMES = {bool: "true or false", int: "an integer", float: "a number", str: "a string"}


def choice(default: str, rows: Iterable[str], meaning: str) -> Key:
    """The setting that names one of `rows`."""
    return Key(default, tuple(rows), meaning)


def valid(value: Any, key: Key) -> bool:
    """Whether a value has the type, the range and the length of a setting."""
    if isinstance(key.default, tuple):
        element = Key(key.default[0], key.allowed, "")
        fits = isinstance(value, tuple) and len(value) == (key.length or len(value))
        return fits and all(valid(v, element) for v in value)
    integer_as_number = type(value) is int and isinstance(key.default, float)
    if type(value) is not type(key.default) and not integer_as_number:
        return False
    if key.allowed is None:
        return True
    if isinstance(value, str):
        return value in key.allowed
    return key.allowed[0] <= value <= key.allowed[1]  # False for nan


def describe_key(key: Key) -> str:
    """What a setting takes, in words: `an integer from 1 to 10000`."""
    if isinstance(key.default, tuple):
        inner = describe_key(Key(key.default[0], key.allowed, ""))
        example = ",".join(map(str, key.default[: key.length or None]))
        if key.length == 1:
            return f"a tuple of one, such as '{example},', {inner}"
        count = f" of {key.length}" if key.length else ""
        return f"a tuple{count} such as '{example}', each {inner}"
    if isinstance(key.default, str) and key.allowed:
        return "one of " + ", ".join(choice for choice in key.allowed if choice)
    words = _TYPE_NAMES[type(key.default)]
    return f"{words} from {key.allowed[0]} to {key.allowed[1]}" if key.allowed else words
