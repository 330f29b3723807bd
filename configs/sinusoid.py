"""Few-shot sinusoid regression, MAML's protocol.

    python -m experiments.main --config=configs/sinusoid.py
"""

from experiments.config import default_config


def get_config():
    config = default_config()
    config.data.name = "sinusoid"
    config.data.shots = 5
    config.data.queries = 5
    config.model.name = "mlp"
    config.inner_learning_rate = 0.01
    config.num_steps = 1
    config.tasks_per_step = 25
    config.train_steps = 70_000
    config.eval.num_steps = (1, 5, 10)
    config.eval.queries = 100
    config.eval.every = 2500
    config.eval.validation_tasks = 1000
    return config
