"""Packaging of cml_jax; tools are configured in pyproject.toml."""

from pathlib import Path

from setuptools import find_packages, setup

EXTRAS = {
    "plots": ["matplotlib>=3.8"],
    "analysis": ["matplotlib>=3.8", "scikit-learn>=1.5"],
    "tensorboard": ["tensorboardX>=2.6"],
    "tfds": ["tensorflow-cpu>=2.16"],
    "cuda12": ["jax[cuda12]>=0.10"],
    "cuda13": ["jax[cuda13]>=0.10"],
    "tpu": ["jax[tpu]>=0.10"],
    "benchmarks": ["torch>=2.4", "matplotlib>=3.8"],
    "docs": ["sphinx>=8"],
    "tests": [
        "pytest>=8",
        "pytest-xdist>=3.6",
        "ruff>=0.14",
        "pyright>=1.1.400",
        "matplotlib>=3.8",
        "sphinx>=8",
    ],
}

setup(
    name="cml_jax",
    version="0.1.0",
    description="Gradient-based meta-learning in JAX: cooperative meta-learning and gradient "
    "agreement on MAML and its relatives",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    # experiments/ and configs/ are run from a checkout: their names are too general to install.
    packages=find_packages(include=["cml_jax", "cml_jax.*"]),
    package_data={
        "cml_jax": ["py.typed"],
        "cml_jax.ops": ["forms.json"],
        "cml_jax.data": ["splits/*.json"],
    },
    install_requires=[
        "jax>=0.10",
        "jaxlib>=0.10",
        "flax>=0.12",
        "optax>=0.2.6",
        "chex>=0.1.90",
        "numpy>=2.0",
        "pillow>=11",
        "tensorflow-datasets>=4.9.9",
        "importlib_resources>=6",  # tensorflow-datasets imports it without declaring it
        # What the program in experiments/ needs beside these. No extra would save anything: jax
        # brings scipy, flax brings orbax-checkpoint, tensorflow-datasets brings absl-py and tqdm.
        "absl-py>=2.1",
        "ml-collections>=1.1",
        "orbax-checkpoint>=0.11.30",
        "scipy>=1.14",
        "tqdm>=4.66",
    ],
    extras_require=EXTRAS,
)
