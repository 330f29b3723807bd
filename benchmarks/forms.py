"""What `benchmarks.convolutions` times: every form of a convolution in a block's part of a step."""

import json
import statistics
import time
from collections.abc import Iterable
from typing import NamedTuple
from unittest import mock

from benchmarks.workloads import WORKLOADS
from experiments.report.table import markdown
from experiments.run_folder import folder

_LEAST = 0.01  # seconds of one measurement
_BETTER = 0.9  # what a form's mean has to be of the mean of the one in the table, to replace it


class Layer(NamedTuple):
    """A 3 x 3 convolution of a workload.

    Attributes:
      tasks: Each has a kernel of its own.
      images: Of a task.
      size: Their height and width.
      channels, features: Of the kernel.
      stride: Of both axes.
    """

    tasks: int
    images: int
    size: int
    channels: int
    features: int
    stride: int = 1

    def __str__(self):
        text = f"{self.tasks} x {self.images} of {self.size} x {self.size}, "
        text += f"{self.channels} to {self.features}"
        return text + f", stride {self.stride}" * (self.stride > 1)


def layers_of(name: str, platform: str) -> list[Layer]:
    """The convolutions of a workload of pictures, and its first two with strides in pools' place.

    Args:
      name: Name of the workload.
      platform: A CPU takes one task at a time, and two are enough; others take all at once.
    """
    workload = WORKLOADS[name]
    tasks = 2 if platform == "cpu" else workload.tasks
    images, size, channels = workload.query, workload.size, workload.channels
    layers = []
    if workload.network == "resnet12":
        for features in (64, 128, 256, 512):
            layers.append(Layer(tasks, images, size, channels, features))
            layers.append(Layer(tasks, images, size, features, features))
            size, channels = size // 2, features
        return layers
    for block in range(4):
        layers.append(Layer(tasks, images, size, channels, 64))
        if block < 2:  # then the maps are small
            layers.append(Layer(tasks, images, size, channels, 64, stride=2))
        size, channels = size // 2, 64
    return layers


def measure(layer: Layer, platform: str, rounds: int) -> list[dict]:
    """Times a layer's part of a step with every form of every operation; a row for each operation.

    Args:
      layer: The shapes.
      platform: The row of the table that is changed for the time of the measurement.
      rounds: How often each program runs.
    """
    import jax
    import jax.numpy as jnp

    from cml_jax.ops import forms

    tasks, images, size, channels, features, stride = layer
    shape = (3, 3, channels, features)
    kind = forms.class_of((images, size, size, channels), shape, stride)
    keys = jax.random.split(jax.random.key(0), 3)
    x, query = (jax.random.normal(k, (tasks, images, size, size, channels)) for k in keys[:2])
    kernel = jax.random.normal(keys[2], (tasks, *shape)) / (9 * channels) ** 0.5
    row = json.loads(json.dumps(forms.TABLE.get(platform, forms.TABLE["default"])))
    first = channels < 4
    operations = [name for name in forms.OPERATIONS if not (first and name == "input_gradient")]
    taken = {operation: row["forms"][operation][kind] for operation in operations}
    programs, which = {}, {}
    for operation in operations:
        for form in forms.FORMS:
            if not forms.fits(form, shape, stride, jnp.float32):
                continue
            changed = taken | {operation: form}
            key = which[operation, form] = tuple(changed.values())
            if key in programs:  # what the table has is the same for every operation
                continue
            for name, own in changed.items():
                row["forms"][name][kind] = own
            try:
                with mock.patch.dict(forms.TABLE, {platform: row}):
                    part = _of_tasks(_part_of_a_step(first, stride), platform)
                    lowered = jax.jit(part).lower(x, kernel, query)
                programs[key] = lowered.compile()
                jax.block_until_ready(programs[key](x, kernel, query))
            except jax.errors.JaxRuntimeError:  # it needs more memory than there is
                programs.pop(key, None)
    seconds = {key: [] for key in programs}
    for _ in range(rounds):
        for key, program in programs.items():
            seconds[key].append(_seconds(program, x, kernel, query))
    ms = {key: 1e3 * statistics.median(times) for key, times in seconds.items()}
    return [
        {
            "layer": str(layer),
            "operation": operation,
            "class": kind,
            "taken": taken[operation],
            "ms": {
                form: ms[key] for (of, form), key in which.items() if of == operation if key in ms
            },
        }
        for operation in operations
    ]


def _of_tasks(function, platform: str):
    """Of all tasks at once; on a CPU one after another, as a plan has it there."""
    import jax

    if platform != "cpu":
        return jax.vmap(function)

    def one_by_one(*arguments):
        alone = jax.tree.map(lambda x: x[:, None], arguments)
        return jax.lax.map(lambda task: jax.vmap(function)(*task), alone)

    return one_by_one


def _part_of_a_step(first: bool, stride: int):
    """`(x, kernel, query) -> gradients` of a loss after a gradient step, in MAML's shape."""
    import jax
    import jax.numpy as jnp

    from cml_jax.ops import conv_batch_norm

    wrt = (1,) if first else (0, 1)

    def loss(x, kernel):
        features = kernel.shape[-1]
        scale, bias = jnp.ones(features), jnp.zeros(features)
        y = conv_batch_norm(x, kernel, scale, bias, stride, pool=stride == 1)
        return jnp.mean(jnp.square(jax.nn.relu(y)))

    def adapted(x, kernel, query):
        gradients = dict(zip(wrt, jax.grad(loss, wrt)(x, kernel), strict=True))
        moved = query - 0.1 * gradients[0] if 0 in gradients else query
        return loss(moved, kernel - 0.1 * gradients[1])

    return jax.grad(adapted, wrt)


def choose(rows: Iterable[dict]) -> dict[str, dict[str, str]]:
    """The form of each operation and class that was measured.

    It is the one with the least geometric mean, over the shapes, of its time over that of the
    fastest; the one that the table has stays unless another is a tenth faster.

    Args:
      rows: From `measure`.
    """
    from cml_jax.ops.forms import TILES

    ratios: dict[tuple[str, str], dict[str, list[float]]] = {}
    before = {}
    for row in rows:
        least = min(row["ms"].values())
        own = ratios.setdefault((row["operation"], row["class"]), {})
        before[row["operation"], row["class"]] = row["taken"]
        for form, ms in row["ms"].items():
            own.setdefault(form, []).append(ms / least)
    best: dict[str, dict[str, str]] = {}
    for (operation, kind), own in ratios.items():
        # Few channels are also what is left where Winograd's forms do not fit.
        fit = {form: each for form, each in own.items() if kind != "thin" or form not in TILES}
        most = max(map(len, fit.values()))
        full = {form: each for form, each in fit.items() if len(each) == most}
        means = {form: statistics.geometric_mean(each) for form, each in full.items()}
        least, taken = min(means, key=means.__getitem__), before[operation, kind]
        stays = taken in means and means[least] > _BETTER * means[taken]
        best.setdefault(operation, {})[kind] = taken if stays else least
    return best


def write(platform: str, origin: dict, best: dict[str, dict[str, str]]) -> None:
    """Sets a platform's row of forms.json; what was not measured stays as it was."""
    from cml_jax.ops import forms

    stored = json.loads(forms.PATH.read_text())
    before = stored.get(platform, stored["default"])["forms"]
    new = {operation: before[operation] | best.get(operation, {}) for operation in before}
    stored[platform] = {"origin": origin, "forms": new}
    folder.write_json(forms.PATH, stored)


def table(rows: Iterable[dict]) -> str:
    """The milliseconds, in Markdown, the least of each row in bold."""
    rows = list(rows)
    names = list(dict.fromkeys(form for row in rows for form in row["ms"]))
    lines = []
    for row in rows:
        least = min(row["ms"], key=row["ms"].__getitem__)
        cells = [f"{row['ms'][name]:.2f}" if name in row["ms"] else "-" for name in names]
        cells[names.index(least)] = f"**{cells[names.index(least)]}**"
        lines.append([row["layer"], row["operation"], row["class"], *cells])
    return markdown(["tasks x images, channels", "operation", "class", *names], lines)


def platform_here() -> str:
    """The name that `jax.lax.platform_dependent` has for the device."""
    import jax

    device = jax.devices()[0]
    if device.platform != "gpu":
        return device.platform
    return "rocm" if "rocm" in device.client.platform_version.lower() else "cuda"


def _seconds(program, *arguments):
    import jax

    count, began = 0, time.perf_counter()
    while not count or time.perf_counter() - began < _LEAST:
        jax.block_until_ready(program(*arguments))
        count += 1
    return (time.perf_counter() - began) / count
