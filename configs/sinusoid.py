"""Few-shot sinusoid regression.

    python -m experiments.main --config=configs/sinusoid.py
    python -m experiments.main --config=configs/sinusoid.py:agreement

The first is MAML's protocol (5 points, one inner step, 70,000 meta-steps). It takes one to two
minutes on a CPU, to a mean squared error of 0.56 / 0.36 / 0.32 after 1 / 5 / 10 inner steps on
1,000 test tasks.

The second is the protocol of the gradient agreement paper, as far as the paper gives it (10 points,
five inner steps of Reptile, all phases). It takes half a minute, to 0.25 after 5 inner steps and
0.17 after 50, without agreement, which is --config.weighting=gradient_agreement.
"""

import math

from experiments import ConfigError, default_config


def get_config(protocol="maml"):
    config = default_config()
    config.data.name = "sinusoid"
    config.model.name = "mlp"
    config.co_learner_scale = 0.2
    config.eval.queries = 100
    config.eval.every = 2500
    config.eval.validation_tasks = 1000
    if protocol == "maml":
        config.data.shots = config.data.queries = 5
        config.inner_learning_rate = 0.01
        config.num_steps = 1
        config.tasks_per_step = 25
        config.train_steps = 70_000
        config.eval.num_steps = (1, 5, 10)
    elif protocol == "agreement":
        config.method = "reptile"
        config.data.shots = config.data.queries = 10
        config.data.phase = (0.0, 2 * math.pi)
        config.model.hidden = (64, 64)
        config.model.activation = "tanh"
        config.inner_learning_rate = 0.02
        config.num_steps = 5
        config.outer_optimizer = "sgd"
        config.outer_learning_rate = 1.0
        config.outer_schedule = "linear"
        config.tasks_per_step = 5
        config.train_steps = 30_000
        config.eval.num_steps = (5, 10, 50)
    else:
        raise ConfigError(f"{protocol!r} after the colon of --config: choose maml or agreement")
    return config
