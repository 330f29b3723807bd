"""Few-shot node classification: unseen classes of a graph, each from a few labelled nodes.

    python -m experiments.main --config=configs/nodes.py[:2way-1shot]
    python -m experiments.main --config=configs/nodes.py:2way-5shot --config.data.name=citeseer
    python -m experiments.main --config=configs/nodes.py:5way-1shot --config.data.name=cora_full

The first needs no files: its graph is a stochastic block model. The others look for files in
--config.data.dir and in $CML_JAX_DATA. A graph of your own is --config.data.name=graph
--config.data.file=PATH.npz --config.data.classes=TRAIN,VALIDATION,TEST (the number of classes in
each split). CML is --config.co_learner=mlp.

The protocol is that of CML's results on nodes: a GCN of 16 units, 20 inner steps in first order,
one task in a meta-step, 5 queries of each class in training and 10 at test. Training ends after 10
validations in a row without a better one. (Validation has 10 queries of each class here, and 5 in
TLP-FSNC.) --config.data.split_seed draws which classes are for training. The inner rate is 0.1;
use 0.05 for G-Meta. Features whose rows sum to more than 32 in the mean are divided by one number
(--config.data.features=stored leaves them: on Amazon-Computer the rate must then be 0.05).
"""

from experiments import default_config, parse_ways_shots


def get_config(ways_shots=None):
    config = default_config()
    config.data.name = "block_graph"
    config.data.ways, config.data.shots = parse_ways_shots(ways_shots, (2, 1))
    config.data.queries = 5
    config.model.name = "gcn"
    config.model.hidden = (16,)
    config.method = "fomaml"
    config.co_learner_scale = 0.2
    config.inner_learning_rate = 0.1
    config.num_steps = 20
    config.outer_learning_rate = 1e-3
    config.weight_decay = 5e-4
    config.tasks_per_step = 1
    config.train_steps = 1000
    config.eval.every = 10
    config.eval.patience = 10
    config.eval.queries = 10
    config.eval.validation_tasks = 20
    config.eval.num_tasks = 100
    config.eval.num_steps = (0,)
    return config
