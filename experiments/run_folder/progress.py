"""How far training is, in words and as a bar."""

import math
import sys
import time
from collections.abc import Mapping

from experiments.machine import processes


class Progress:
    """Tells a person how far training is: a bar on a terminal, elsewhere a line now and then."""

    def __init__(self, total: int, start: int, log_every_seconds: float):
        """Starts the clock; only process 0 of a distributed run speaks.

        Args:
          total: meta-steps of the whole run.
          start: meta-steps already made.
          log_every_seconds: between lines where there is no terminal.
        """
        self._total, self._every = total, log_every_seconds
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
          step: meta-steps made so far.
          row: what `MetricsFile.write` returned.
        """
        if self._bar is not None:
            self._bar.set_postfix_str(describe(row), refresh=False)
            self._bar.update(step - self._bar.n)
            return
        now = time.monotonic()
        self._first = self._first or (now, step)  # the clock of the ETA: compilation lies before
        validated = any(name.startswith("validation/") for name in row)
        due = now - self._spoken >= self._every or validated or step >= self._total
        if self._silent or not due:
            return
        self._spoken = now
        line = f"step {step}/{self._total}  {describe(row)}"
        if step > self._first[1]:
            rate = (step - self._first[1]) / (now - self._first[0])
            line += f"  {duration((self._total - step) / rate)} left"
        print(line, file=sys.stderr, flush=True)

    def say(self, text: str) -> None:
        """Prints a line without spoiling the bar."""
        if self._bar is not None:
            self._bar.write(text, file=sys.stderr)
        elif not self._silent:
            print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Ends the bar."""
        if self._bar is not None:
            self._bar.close()


def describe(row: Mapping[str, float | None]) -> str:
    """One report in words: `loss 0.412  accuracy 87.3%  validation accuracy 88.1%  950 tasks/s`.

    Args:
      row: of a `MetricsFile`; names other than loss, accuracy, mse and the rate are left out.
    """
    words = []
    for name, value in row.items():
        split, _, metric = name.rpartition("/")
        if metric not in ("loss", "accuracy", "mse") or split not in ("", "train", "validation"):
            continue
        if metric == "loss" and value == row.get(f"{split}/mse", math.nan):
            continue
        label = f"{split} {metric}" if split == "validation" else metric
        if value is None:
            words.append(f"{label} not finite")
        elif metric == "accuracy":
            words.append(f"{label} {100 * value:.1f}%")
        else:
            words.append(f"{label} {value:.3g}")
    if rate := row.get("tasks_per_second"):
        words.append(f"{rate:,.0f} tasks/s" if rate >= 10 else f"{rate:.2g} tasks/s")
    return "  ".join(words)


def duration(seconds: float) -> str:
    """`2h05m`, `3m20s` or `41s`."""
    seconds = round(max(seconds, 0))
    if seconds >= 3600:
        return f"{seconds // 3600}h{seconds % 3600 // 60:02d}m"
    return f"{seconds // 60}m{seconds % 60:02d}s" if seconds >= 60 else f"{seconds}s"
