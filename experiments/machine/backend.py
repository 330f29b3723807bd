"""The start of jax's backend, with one line where it cannot start."""

import os


class BackendError(Exception):
    """jax finds no device of the kind that it was told to use: one line."""


def start() -> None:
    """Starts jax's backend: the first touch of a device, after all settings of jax are made.

    Raises:
      BackendError: `JAX_PLATFORMS` names a platform that is not on this machine, or jax cannot
        start any.
    """
    import jax

    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # jax asserts where no plug-in of CUDA is
        raise BackendError(_line(jax.config.jax_platforms, error)) from error


def _line(platforms: str | None, error: Exception) -> str:
    said = str(error).split(" (set JAX_PLATFORMS")[0].strip().splitlines()
    why = f" ({said[0][:200]})" if said else ""
    if not platforms:
        return f"jax cannot start on this machine{why}: try JAX_PLATFORMS=cpu"
    where = "JAX_PLATFORMS" if os.environ.get("JAX_PLATFORMS") == platforms else "jax_platforms"
    return (
        f"{where}={platforms}: there is no such device here, or jax's package for it is not "
        f"installed{why}: set JAX_PLATFORMS=cpu, or leave it unset"
    )
