"""Printing that never fails for want of a letter."""

import codecs
import sys

_SPELLED = {"±": "+-"}


def spell_what_cannot_be_printed() -> None:
    """Lets stdout and stderr print any text: `±` as `+-` where their encoding, such as ASCII, has
    no such letter, and others as `\\xe9`."""
    codecs.register_error("cml_jax.spelled", _spelled)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # tests and notebooks may put another kind there
            stream.reconfigure(errors="cml_jax.spelled")


def _spelled(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    letters = error.object[error.start : error.end]
    ascii_only = [
        _SPELLED.get(letter, letter.encode("ascii", "backslashreplace").decode())
        for letter in letters
    ]
    return "".join(ascii_only), error.end
