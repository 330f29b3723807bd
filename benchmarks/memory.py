"""Peak memory of a run on a large set of images, beside the same run on a tiny one.

    python -m benchmarks.memory [--gigabytes 1.2] [--devices 2] [--steps 20]

Writes random colour images of 84 x 84 pixels to a cache folder of its own; then, in a process of
its own, trains a small conv4 on them by second-order MAML, validates and tests. Afterwards every
image is read once, as in a long run: a page of the mapped file is in memory from the first time
that one of its images is drawn. "resident" is the process's peak as the system counts it, in MB.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np

_SIZE = (84, 84, 3)
_PER_CLASS = 600


def make(folder: Path, classes: int, per_class: int) -> int:
    """Writes images as a loader does, two thirds of the classes for training. Returns bytes."""
    from cml_jax.data import Split
    from cml_jax.data.cache import write_images

    names = [f"class{i:04d}" for i in range(classes)]
    ends = (classes * 2 // 3, classes * 5 // 6)
    split = Split(tuple(names[: ends[0]]), tuple(names[slice(*ends)]), tuple(names[ends[1] :]))
    random = np.random.default_rng(0)
    pixels = ((name, random.integers(0, 256, (per_class, *_SIZE), np.uint8)) for name in names)
    return write_images(folder, "made_up", split, "", pixels).pixels.nbytes


def train(folder: Path, devices: int, steps: int) -> dict[str, float]:
    """Trains on the images of a folder, then reads all of them; returns both peaks in MB."""
    import cml_jax
    import experiments
    from cml_jax.data.cache import read_images
    from cml_jax.models import conv4
    from cml_jax.tasks import episodes

    images, _ = read_images(folder)
    problem = experiments.Problem(
        model=conv4(5, filters=8),
        train_sample=partial(episodes, ways=5, shots=1, queries=5),
        loss=cml_jax.cross_entropy,
        metric=cml_jax.accuracy,
        data={split: images.split(split) for split in ("train", "validation", "test")},
        split_hash=images.split_hash,
        batch_statistics=True,
        ways=5,
        examples=5,
    )
    config = experiments.default_config()
    config.tasks_per_step, config.train_steps = 2 * devices, steps
    config.eval.every, config.eval.validation_tasks, config.eval.num_tasks = steps, 20, 20
    config.eval.num_steps = (1,)
    config.plan.devices = devices
    with tempfile.TemporaryDirectory() as workdir:
        experiments.run(config, Path(workdir) / "run", problem)
    trained = _peak()
    for start in range(0, len(images.pixels), 1000):
        images.pixels[start : start + 1000].max()
    return {"trained": trained, "all images read": _peak()}


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3  # kB on Linux


def _in_a_process(folder: Path, devices: int, steps: int) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.memory", f"--train={folder}"]
    command += [f"--devices={devices}", f"--steps={steps}"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Prints the peaks, and what the large set adds as a multiple of its size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gigabytes", type=float, default=1.2)
    parser.add_argument("--devices", type=int, default=2)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--train", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.train:
        from experiments.machine.devices import configure

        configure(devices=given.devices, compilation_cache=False, precision="default")
        print(json.dumps(train(given.train, given.devices, given.steps)))
        return
    with tempfile.TemporaryDirectory() as home:
        folders = {"tiny": Path(home) / "tiny", "large": Path(home) / "large"}
        make(folders["tiny"], 30, 16)
        classes = max(30, round(given.gigabytes * 1e9 / (_PER_CLASS * np.prod(_SIZE))))
        size = make(folders["large"], classes, _PER_CLASS) / 1e6
        peaks = {
            name: _in_a_process(folder, given.devices, given.steps)
            for name, folder in folders.items()
        }
    print(f"set of {size:.0f} MB on {given.devices} devices; resident MB, at most")
    for when, tiny in peaks["tiny"].items():
        large = peaks["large"][when]
        print(f"{when}: tiny {tiny:.0f}, large {large:.0f}: {(large - tiny) / size:+.2f} times it")


if __name__ == "__main__":
    main()
