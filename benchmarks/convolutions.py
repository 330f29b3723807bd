"""Times the forms of a convolution and of its gradients, and sets the table that chooses.

    python -m benchmarks.convolutions [--workloads=W1,W3] [--write] [--times=FILE]

What is timed is a block's part of a second-order step: the gradient, with respect to the kernel and
to the images, of a loss after a gradient step on both (of a block that reads the pictures: on the
kernel alone). So forms are compared with what stands around them in a step, which XLA fuses, and
where they share their work: the patches of a convolution and of its weight gradient are the same.
The shapes are those of the workloads of `benchmarks.step`, with a kernel for each task and as many
tasks at once as a plan takes on the device. (On CPU a convolution inside of a loop over tasks, as a
step has it, can be many times slower than the same one outside.)

Each operation in turn takes each of its forms, while the others have that of the table. Programs
run in turn, and medians are compared. For each operation and class of shapes the form with the
least geometric mean of its time over that of the fastest is the one to take, if it is a tenth
faster than the one in the table; `--write` puts these, with the device, the date and the versions,
into cml_jax/ops/forms.json. A second call with the new table shows whether it is still the best.
"""

import datetime
import json
import sys
import time
from importlib.metadata import version
from pathlib import Path

from absl import app, flags

from benchmarks import forms
from benchmarks.workloads import WORKLOADS
from experiments.run_folder import folder

_OF = flags.DEFINE_list("workloads", ["W1", "W3", "W5", "W6"], "whose shapes are timed")
_ROUNDS = flags.DEFINE_integer("rounds", 5, "how often each form runs", lower_bound=1)
_MINUTES = flags.DEFINE_float("minutes", 20.0, "most minutes; shapes that are left are not timed")
_WRITE = flags.DEFINE_boolean("write", False, "set this device's row of cml_jax/ops/forms.json")
_TIMES = flags.DEFINE_string("times", "", "a JSON file of all times, or nothing")


def main(_):
    import jax

    with_images = [name for name, workload in WORKLOADS.items() if workload.ways]
    for name in _OF.value:
        if name not in with_images:
            raise app.UsageError(f"{name} has no convolutions: choose from {with_images}")
    platform = forms.platform_here()
    end = time.monotonic() + 60 * _MINUTES.value
    layers = dict.fromkeys(layer for name in _OF.value for layer in forms.layers_of(name, platform))
    rows = []
    for layer in layers:
        if time.monotonic() > end:
            print(f"no time was left for {layer}: allow more --minutes", file=sys.stderr)
            continue
        rows += forms.measure(layer, platform, _ROUNDS.value)
        print(rows[-1], file=sys.stderr, flush=True)
    origin = {
        "device": jax.devices()[0].device_kind,
        "date": datetime.date.today().isoformat(),
        "versions": {name: version(name) for name in ("jax", "jaxlib")},
        "command": f"python -m benchmarks.convolutions --workloads={','.join(_OF.value)} "
        f"--rounds={_ROUNDS.value} --minutes={_MINUTES.value:g}",
    }
    best = forms.choose(rows)
    if _TIMES.value:
        folder.write_json(Path(_TIMES.value), {"origin": origin, "rows": rows})
    if _WRITE.value:
        forms.write(platform, origin, best)
    print(forms.table(rows))
    print(json.dumps({platform: best}, indent=2))


if __name__ == "__main__":
    app.run(main)
