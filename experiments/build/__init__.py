"""From settings to pure functions and arrays; below this room nobody sees a config."""

from experiments.build.learner import Learner, learner
from experiments.build.problem import Problem, own, problem
from experiments.build.schedule import Schedule, schedule

__all__ = ["Learner", "Problem", "Schedule", "learner", "own", "problem", "schedule"]
