"""From "module:function" to the function, and the call with the arguments that it takes."""

import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any


def resolve(path: str) -> Callable[..., Any]:
    """The function that a row names as "module:function"."""
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


def call(function: Callable[..., Any], available: Mapping[str, Any]) -> Any:
    """Calls a function with those of the available arguments that it has parameters for.

    Raises:
      TypeError: The function has a parameter without a default that is not available.
    """
    parameters = inspect.signature(function).parameters
    return function(**{name: available[name] for name in parameters if name in available})
