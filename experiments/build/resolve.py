"""From "module:function" to the function, and the call with the arguments that it takes."""

import importlib
import inspect
from collections.abc import Callable
from typing import Any


def resolve(path: str) -> Callable[..., Any]:
    """The function that a row names as "module:function"."""
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


def call(function: Callable[..., Any], available: dict[str, Any], **inner: Any) -> Any:
    """Calls a function with those of the available arguments that it has parameters for.

    Args:
      function: The function.
      available: Arguments by name.
      **inner: More of them. A function with a `**` parameter takes them all.

    Raises:
      TypeError: The function has a parameter without a default that is not available.
    """
    parameters = inspect.signature(function).parameters
    takes_all = any(each.kind is each.VAR_KEYWORD for each in parameters.values())
    taken = {name: value for name, value in (available | inner).items() if name in parameters}
    return function(**(taken | inner if takes_all else taken))
