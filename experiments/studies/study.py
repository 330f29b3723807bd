"""What a study is made of."""

from typing import NamedTuple


class Study(NamedTuple):
    """Runs that belong together, with one table and one picture.

    What they are for and what was found is in docs/results/NAME.md.

    Attributes:
      config: The value of `--config` of all runs.
      runs: Label to the settings of a run, as on the command line without `--config.`.
      curve: The number of metrics.jsonl that the picture shows; "" draws the test results.
      beside: More rows of a table with columns: label to column to text.
      repeats: Settings, each of which makes one run of every label; intervals are over them.
      base: The row that a row is compared with, repeat by repeat: row to row.
      probes: Label to the settings of a run of `experiments.linear_probing`.
    """

    config: str
    runs: dict[str, tuple[str, ...]]
    curve: str = ""
    beside: dict[str, dict[str, str]] = {}
    repeats: tuple[tuple[str, ...], ...] = ((),)
    base: dict[str, str] = {}
    probes: dict[str, tuple[str, ...]] = {}
