"""What is timed: one second-order MAML step over a whole meta-batch, with Adam outside."""

from typing import NamedTuple

import numpy as np


class Workload(NamedTuple):
    """One meta-step.

    Attributes:
      meaning: The workload in words.
      ways: Classes of a task; 0 is sinusoid regression with a 1-40-40-1 perceptron.
      size, channels: Height and width, and channels of an image.
      tasks: Tasks of the meta-batch.
      support, query: Examples of a task.
      inner_steps: gradient steps, and `inner_rate` their size.
      co_learner: whether CML's convolutional co-learner is trained along.
      network: "conv4" or "resnet12", of images.
      filters: Channels of every block of conv4.
    """

    meaning: str
    ways: int
    size: int
    channels: int
    tasks: int
    support: int
    query: int
    inner_steps: int
    inner_rate: float
    co_learner: bool = False
    network: str = "conv4"
    filters: int = 64

    def gflop(self) -> float:
        """Arithmetic of a step, counted by hand, in GFLOP (multiplications and additions).

        A support image costs nine forward passes an inner step (forward 1, backward 2, their
        derivatives 6; four in layer 1, whose input needs no gradient), a query image three (two).
        """
        if not self.ways:
            widths = (1, 40, 40, 1)
            forward = sum(2 * a * b for a, b in zip(widths, widths[1:], strict=False))
            return (
                self.tasks * forward * (9 * self.inner_steps * self.support + 3 * self.query) / 1e9
            )
        first, rest, co_learner = self._forward()
        support = self.inner_steps * self.support * (9 * rest + 4 * first)
        query = self.query * (3 * (rest + self.co_learner * co_learner) + 2 * first)
        return self.tasks * (support + query) / 1e9

    def _forward(self):
        """Of an image's forward pass: what reads the image, what follows, the co-learner."""

        def convolution(size, channels, features, kernel=3):
            return 2 * kernel**2 * size**2 * channels * features

        size = self.size
        if self.network == "conv4":
            filters = self.filters
            first, rest = convolution(size, self.channels, filters), 0
            for _ in range(3):
                size //= 2
                rest += convolution(size, filters, filters)
            return first, rest, 2 * convolution(size, filters, filters)
        first, rest, channels = 0, 0, self.channels
        for features in (64, 128, 256, 512):
            reads = convolution(size, channels, features) + convolution(size, channels, features, 1)
            first, rest = (reads, rest) if channels == self.channels else (first, rest + reads)
            rest += 2 * convolution(size, features, features)
            size, channels = size // 2, features
        return first, rest, 2 * convolution(size, channels, channels)

    def data(self):
        """Support inputs and targets, query inputs and targets, leaves `[tasks, n, ...]`."""
        random = np.random.default_rng(0)

        def batch(count):
            if not self.ways:
                x = random.uniform(-5, 5, (self.tasks, count, 1)).astype(np.float32)
                return x, np.sin(x)
            shape = (self.tasks, count, self.size, self.size, self.channels)
            targets = np.tile(np.arange(count) % self.ways, (self.tasks, 1)).astype(np.int32)
            # Each class has a pattern of its own, so that the losses are those of real training.
            pattern = random.random((self.tasks, self.ways, *shape[2:]), np.float32)
            noise = random.random(shape, np.float32)
            tasks = np.arange(self.tasks)[:, None]
            return 0.5 * pattern[tasks, targets] + 0.5 * noise, targets

        return *batch(self.support), *batch(self.query)


WORKLOADS = {
    "W1": Workload("Omniglot 5-way 1-shot, Conv4-64", 5, 28, 1, 32, 5, 5, 1, 0.4),
    "W2": Workload("Omniglot 20-way 1-shot, Conv4-64", 20, 28, 1, 16, 20, 20, 5, 0.1),
    "W3": Workload("miniImageNet 5-way 1-shot, Conv4-64 + CML", 5, 84, 3, 4, 5, 75, 1, 0.5, True),
    "W4": Workload("sinusoid, 10 points, 1-40-40-1", 0, 0, 0, 25, 10, 10, 5, 0.01),
    "W5": Workload("CIFAR-FS 5-way 1-shot, Conv4-64 + CML", 5, 32, 3, 4, 5, 75, 1, 0.5, True),
    "W6": Workload(
        "CIFAR-FS 5-way 1-shot, ResNet-12 + CML", 5, 32, 3, 4, 5, 75, 1, 0.3, True, "resnet12"
    ),
    # Nothing was tuned on this one.
    "W7": Workload("kept apart: 10-way 5-shot, Conv4-48", 10, 42, 3, 2, 50, 50, 2, 0.1, filters=48),
}
