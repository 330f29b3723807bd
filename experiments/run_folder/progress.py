"""How far training is, in words and as a bar."""

import math
import sys
import time
from collections.abc import Mapping

from experiments.machine import processes
from experiments.run_folder.results import is_share


class Progress:
    """Tells a person how far training is: a bar on a terminal, elsewhere a line now and then."""

    def __init__(self, total: int, start: int, log_seconds: float, metric: str = "accuracy"):
        """Starts the clock; only process 0 of a distributed run speaks.

        Args:
          total: How many meta-steps the whole run has.
          start: How many of them are made already.
          log_seconds: Seconds between two lines where there is no terminal.
          metric: Name of the metric that is shown beside the loss.
        """
        self._total, self._every, self._metric = total, log_seconds, metric
        self._silent = not processes.is_process_zero()
        self._spoken = time.monotonic()
        self._first: tuple[float, int] | None = None
        self._bar = None
        if not self._silent and sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=total, initial=start, unit="step", dynamic_ncols=True)

    def update(self, step: int, row: Mapping[str, float | None]) -> None:
        """Shows a report; validations and the last step are always shown.

        Args:
          step: How many meta-steps have been made.
          row: What `MetricsFile.write` returned.
        """
        said = describe_row(row, self._metric)
        if self._bar is not None:
            self._bar.set_postfix_str(said, refresh=False)
            self._bar.update(step - self._bar.n)
            return
        now = time.monotonic()
        self._first = self._first or (now, step)  # compilation, before it, is not in the ETA
        validated = any(name.startswith("validation/") for name in row)
        due = now - self._spoken >= self._every or validated or step >= self._total
        if self._silent or not due:
            return
        self._spoken = now
        line = f"step {step}/{self._total}  {said}"
        if step > self._first[1]:
            rate = (step - self._first[1]) / (now - self._first[0])
            line += f"  {duration((self._total - step) / rate)} left"
        print(line, file=sys.stderr, flush=True)

    def say(self, text: str) -> None:
        """Prints a line without breaking the bar."""
        if self._bar is not None:
            self._bar.write(text, file=sys.stderr)
        elif not self._silent:
            print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Ends the bar."""
        if self._bar is not None:
            self._bar.close()


def describe_row(row: Mapping[str, float | None], metric: str = "accuracy") -> str:
    """One report in words.

    >>> describe_row({"step": 9, "train/loss": 0.4123, "train/accuracy": 0.8734})
    'loss 0.412  accuracy 87.3%'

    Args:
      row: A row of metrics.jsonl; names other than the loss, the metric and the rate are left out.
      metric: Name of the metric; the loss is left out where it is the same number.
    """
    words = []
    for name, value in row.items():
        split, _, leaf = name.rpartition("/")
        if leaf not in ("loss", metric) or split not in ("", "train", "validation"):
            continue
        if leaf == "loss" and metric != "loss" and value == row.get(f"{split}/{metric}", math.nan):
            continue
        label = f"{split} {leaf}" if split == "validation" else leaf
        if value is None:
            words.append(f"{label} not finite")
        elif is_share(leaf):
            words.append(f"{label} {100 * value:.1f}%")
        else:
            words.append(f"{label} {value:.3g}")
    if rate := row.get("tasks_per_second"):
        words.append(f"{rate:,.0f} tasks/s" if rate >= 10 else f"{rate:.2g} tasks/s")
    return "  ".join(words)


def duration(seconds: float) -> str:
    """A time in words.

    >>> duration(7500), duration(200), duration(41)
    ('2h05m', '3m20s', '41s')
    """
    seconds = round(max(seconds, 0))
    if seconds >= 3600:
        return f"{seconds // 3600}h{seconds % 3600 // 60:02d}m"
    return f"{seconds // 60}m{seconds % 60:02d}s" if seconds >= 60 else f"{seconds}s"
