"""Checkpoints: orbax writes and reads them, a digest of every leaf decides if they are good."""

import contextlib
import errno
import hashlib
import json
import math
import os
import re
import shutil
import tempfile
import weakref
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from absl import logging

from cml_jax.types import PyTree
from experiments.machine import processes
from experiments.run_folder.folder import BEST, LAST

Restored = tuple[int, PyTree, dict[str, Any]]


class CheckpointError(Exception):
    """A checkpoint could not be written or read: one line."""


class Checkpoints:
    """The checkpoints of a run: `last/` to resume from (three of them) and `best/` to test (one).

    Two managers, since one that keeps the best drops the latest. Three checkpoints, since orbax
    deletes the oldest before the newest is whole: a run killed just then still has two. Every
    process of a distributed run calls every method; orbax lets process 0 write.
    """

    def __init__(self, workdir: str | os.PathLike):
        """Opens or makes the two folders.

        Args:
          workdir: The run's folder.

        Raises:
          CheckpointError: orbax needs a link to the folder, and none can be made.
        """
        self._workdir = Path(workdir).absolute()
        self._opened = self._workdir
        if not _safe(self._workdir):
            self._opened = _link(self._workdir)
            self._unlink = weakref.finalize(self, shutil.rmtree, self._opened.parent, True)
        own = {"create": True, "cleanup_tmp_directories": True}
        self._last = _manager(self._opened / LAST, max_to_keep=3, **own)
        self._best = _manager(self._opened / BEST, **own)
        self._readable = False  # whether a checkpoint of this run was read already

    def save_last(self, step: int, tree: PyTree, extra: dict[str, Any]) -> None:
        """Saves a checkpoint to resume from; when this returns it is on the disk.

        Args:
          step: How many meta-steps have been made.
          tree: Arrays, such as a `MetaState`.
          extra: JSON values that belong to it.

        Raises:
          CheckpointError: It was not saved: the disk is full, or a newer step is there already; or
            it is the first save and cannot be read back.
        """
        self._save(self._last, step, tree, extra)

    def save_best(self, step: int, tree: PyTree, extra: dict[str, Any]) -> None:
        """Saves the best checkpoint; the one before is deleted when this one is on the disk.

        Args:
          step: How many meta-steps have been made; it may be lower than that of the last best one,
            where training resumed from an older checkpoint.
          tree: Arrays, such as a `MetaState`.
          extra: JSON values that belong to it.

        Raises:
          CheckpointError: It was not saved, or it is the first save and cannot be read back.
        """
        self._save(self._best, step, tree, extra)
        for other in set(self._best.all_steps()) - {step}:
            self._best.delete(other)

    def restore_last(self, template: PyTree) -> Restored | None:
        """The newest good checkpoint of `last/`; see `restore_best`."""
        return self._restore(self._last, template)

    def restore_best(self, template: PyTree) -> Restored | None:
        """The good checkpoint of `best/`.

        A damaged checkpoint is logged and set aside as `damaged-...`, and the one before it is
        read: by all processes, where it is damaged to any of them.

        Args:
          template: A tree of the same structure, shapes and dtypes (arrays or
            `jax.ShapeDtypeStruct`).

        Returns:
          `(step, tree, extra)` with `jax.Array` leaves on the default device, or None if nothing
          was ever saved.

        Raises:
          CheckpointError: There are checkpoints but none is good, or one cannot be read, or they
            have other leaves than `template`: the config has changed.
        """
        return self._restore(self._best, template)

    def close(self) -> None:
        """Ends orbax's threads."""
        self._last.close()
        self._best.close()
        if self._opened != self._workdir:
            self._unlink()

    def _save(self, manager: ocp.CheckpointManager, step: int, tree: PyTree, extra: Any) -> None:
        where, state = self._shown(manager, step), _host(tree)
        force = manager is self._best  # its step may be lower than the last
        about = {"leaves": _leaves(state), "extra": extra}
        about |= {"about_digest": _about_digest(about), "leaves_digest": _leaves_digest(state)}
        try:
            if step in manager.all_steps():
                # A run that was stopped before it made a step saves the step that it read.
                if _about(manager, step) == about:
                    return
                if force:
                    manager.delete(step)
            args = ocp.args.Composite(
                state=ocp.args.StandardSave(state), about=ocp.args.JsonSave(about)
            )
            with _one_error():
                saved = manager.save(step, args=args, force=force)
        except Exception as error:  # the disk is full, in orbax's many words
            why = self._reason(error)
            raise CheckpointError(f"checkpoint {where} was not saved: {why}") from error
        if not saved:
            raise CheckpointError(
                f"checkpoint {where} was not saved: step {manager.latest_step()} is there already; "
                "choose another --workdir"
            )
        if not self._readable:
            processes.on_process_zero(lambda: self._read_back(manager, step, state))
            self._readable = True

    def _read_back(self, manager: ocp.CheckpointManager, step: int, state: PyTree) -> None:
        """A folder where nothing that was saved can be read is told now, not when it is needed."""
        try:
            with _alone(Path(manager.directory)) as reader:
                _read(reader, step, state)
        except Exception as error:
            raise CheckpointError(
                f"checkpoint {self._shown(manager, step)} was saved but cannot be read "
                f"({self._reason(error)}): choose a --workdir on another disk"
            ) from error

    def _restore(self, manager: ocp.CheckpointManager, template: PyTree) -> Restored | None:
        shown = self._shown(manager)
        steps = sorted(manager.all_steps(), reverse=True)
        if not processes.same(json.dumps(steps).encode()):
            raise CheckpointError(
                f"the processes see different checkpoints in {shown}: put it on a shared disk, or "
                "start again when all machines see the same files"
            )
        damaged = {}
        for step in steps:
            why = None
            with _alone(Path(manager.directory)) as reader:
                try:
                    tree, extra = _read(reader, step, template)
                except _OtherLeaves as error:
                    raise CheckpointError(f"checkpoint {shown}/{step} has {error}") from None
                except Exception as error:  # orbax raises anything at all on a damaged file
                    if _no_damage(error):
                        raise CheckpointError(
                            f"checkpoint {shown}/{step} cannot be read ({self._reason(error)}): it "
                            "is left as it is, start again when this machine can read it"
                        ) from error
                    why = self._reason(error)
            if processes.any_process(why is not None):
                damaged[step] = why or "another process finds it so"
                continue
            # Only now: had none been good, the next start would find none and start from step 0.
            for bad, why in damaged.items():
                self._set_aside(manager, bad, f"{why}; resuming from step {step}")
            self._readable = True
            return step, jax.tree.map(jnp.array, tree), extra
        if damaged:
            why = "; ".join(f"step {step}: {reason}" for step, reason in damaged.items())
            raise CheckpointError(
                f"no checkpoint in {shown} is good ({why}): restore one from a backup, or choose "
                "another --workdir"
            )
        return None

    def _set_aside(self, manager: ocp.CheckpointManager, step: int, why: str) -> None:
        folder = self._shown(manager)
        target = self._workdir / f"damaged-{folder.name}-{step}"
        while target.exists():
            target = target.with_name(target.name + "x")
        if processes.is_process_zero():
            name = target.name
            logging.warning("checkpoint %s/%d is damaged, now %s: %s", folder, step, name, why)
            os.rename(folder / str(step), target)
        processes.any_process(False)  # the others see the folder as it is now
        manager.reload()

    def _shown(self, manager: ocp.CheckpointManager, step: int | None = None) -> Path:
        """The folder of a manager, or a checkpoint in it, as the user knows it."""
        folder = self._workdir / Path(manager.directory).name
        return folder if step is None else folder / str(step)

    def _reason(self, error: Exception) -> str:
        return _reason(error).replace(str(self._opened), str(self._workdir))


def read_best(workdir: str | os.PathLike) -> dict[str, np.ndarray]:
    """Reads the best checkpoint of another run, whatever its leaves, and changes nothing there.

    Args:
      workdir: The folder of that run, which may be training now.

    Returns:
      Every leaf by its path, such as "['params']['base']['body']['ConvBlock_0']['kernel']".

    Raises:
      CheckpointError: There is none, or it is damaged or cannot be read.
    """
    workdir = Path(workdir).absolute()
    with contextlib.ExitStack() as closing:
        opened = workdir
        if not _safe(workdir):
            opened = _link(workdir)
            closing.callback(shutil.rmtree, opened.parent, True)
        steps = [int(path.name) for path in (opened / BEST).glob("*") if path.name.isdigit()]
        if not steps:
            raise CheckpointError(f"{workdir} has no best checkpoint: train it first")
        try:
            reader = closing.enter_context(_alone(opened / BEST))
            return _read_leaves(reader, max(steps))
        except Exception as error:  # orbax raises anything at all on a damaged file
            raise CheckpointError(
                f"checkpoint {workdir / BEST}/{max(steps)} cannot be read ({_reason(error)}): "
                "restore it from a backup, or choose another run"
            ) from error


class _OtherLeaves(Exception):
    """A good checkpoint has other leaves than the template."""


def _safe(path: Path) -> bool:
    """Whether orbax can write to this path and read it again.

    It merges what processes have written by a glob of the whole path, tensorstore takes a
    backslash for a slash, and "gs:" or "s3:" for the start of an address.
    """
    return not (set("*?[]\\") & set(str(path)) or ":/" in f"{path}/")


def _link(workdir: Path) -> Path:
    """A link to the folder with a path that is safe, in a temporary folder of its own."""
    for parent in (tempfile.gettempdir(), "/tmp", "/var/tmp"):
        if _safe(Path(parent)) and os.access(parent, os.W_OK):
            workdir.mkdir(parents=True, exist_ok=True)
            # A name that was never used: tensorstore remembers files by their paths.
            link = Path(tempfile.mkdtemp(prefix="cml_jax-", dir=parent)) / "run"
            link.symlink_to(workdir, target_is_directory=True)
            return link
    raise CheckpointError(
        f"checkpoints in {workdir} need a link from a temporary folder, and there is none: set "
        "TMPDIR, or choose a --workdir without any of *?[]\\ and :/"
    )


def _manager(folder: Path, **options: Any) -> ocp.CheckpointManager:
    chosen = ocp.CheckpointManagerOptions(enable_async_checkpointing=False, **options)
    return ocp.CheckpointManager(folder, options=chosen, item_names=("state", "about"))


def _alone(folder: Path) -> contextlib.closing[ocp.CheckpointManager]:
    """Opens its folder to read without the others: orbax waits for all, even where one failed."""
    me = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(
        primary_host=me, active_processes={me}, barrier_sync_key_prefix=str(me)
    )
    return contextlib.closing(_manager(folder, create=False, multiprocessing_options=alone))


@contextlib.contextmanager
def _one_error():
    """Keeps orbax's threads from printing a traceback beside the error that `save` raises."""
    before = logging.get_verbosity()
    if before < logging.DEBUG:
        logging.set_verbosity(logging.FATAL)
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _read(
    manager: ocp.CheckpointManager, step: int, template: PyTree
) -> tuple[PyTree, dict[str, Any]]:
    about = _about(manager, step)
    if about["about_digest"] != _about_digest(about):
        raise ValueError("its description is not what was saved")
    expected = _leaves(template)
    if about["leaves"] != expected:
        here, there = ({leaf[0]: leaf[1:] for leaf in each} for each in (expected, about["leaves"]))
        name = next(n for n in there | here if here.get(n) != there.get(n))
        raise _OtherLeaves(
            f"{name} = {there.get(name, 'missing')}, the config asks for "
            f"{here.get(name, 'none')}: the config has changed, choose another --workdir"
        )
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(template))
    _check_sizes(Path(manager.directory, str(step), "state").rglob("*"), 2**24 + 2 * size)
    empty = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), template)
    args = ocp.args.Composite(state=ocp.args.StandardRestore(empty))
    state = _host(manager.restore(step, args=args)["state"])
    if about["leaves_digest"] != _leaves_digest(state):
        raise ValueError("its arrays are not what was saved")
    return state, about["extra"]


def _read_leaves(manager: ocp.CheckpointManager, step: int) -> dict[str, np.ndarray]:
    """`_read` without a template."""
    about = _about(manager, step)
    if about["about_digest"] != _about_digest(about):
        raise ValueError("its description is not what was saved")
    size = sum(np.dtype(dtype).itemsize * math.prod(shape) for _, dtype, shape in about["leaves"])
    _check_sizes(Path(manager.directory, str(step), "state").rglob("*"), 2**24 + 2 * size)
    args = ocp.args.Composite(state=ocp.args.StandardRestore())
    state = _host(manager.restore(step, args=args)["state"])
    leaves = {}
    for path, *_ in about["leaves"]:
        node = state  # in which dicts stand for named tuples
        for name, index, attribute in re.findall(r"\['([^']*)'\]|\[(\d+)\]|\.(\w+)", path):
            node = node[int(index) if index else name or attribute]
        leaves[path] = node
    if about["leaves"] != [[path, str(x.dtype), list(x.shape)] for path, x in leaves.items()]:
        raise ValueError("its arrays are not those of its description")
    if about["leaves_digest"] != _digest(about["leaves"], leaves.values()):
        raise ValueError("its arrays are not what was saved")
    return leaves


def _about(manager: ocp.CheckpointManager, step: int) -> dict[str, Any]:
    folder = Path(manager.directory, str(step))
    _check_sizes([*folder.glob("*"), *folder.glob("about/*")], 2**24)
    args = ocp.args.Composite(about=ocp.args.JsonRestore())
    return manager.restore(step, args=args)["about"]


def _no_damage(error: Exception) -> bool:
    """Whether a checkpoint may be good although this machine cannot read it: a right, a disk."""
    # tensorstore has one exception for all, and the system's number in its text.
    if number := re.search(r"os_error_code='(\d+)'", str(error)):
        error = OSError(int(number[1]), "")
    missing = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
    return isinstance(error, (OSError, MemoryError)) and not isinstance(error, missing)


def _check_sizes(paths: Iterable[Path], most: int) -> None:
    """Refuses files that are too large: orbax and tensorstore read them whole."""
    for path in paths:
        if path.stat().st_size > most:
            raise ValueError(f"{path.name} is larger than what was saved")


def _reason(error: Exception) -> str:
    """The system's word, if there is one, and the start of a message; tensorstore's fill pages."""
    text = str(error).strip() or type(error).__name__
    line = text.splitlines()[0][:200]
    number = re.search(r"os_error_code='(\d+)'", text)
    word = os.strerror(int(number[1])) if number else ""
    if not word and "No space left" in text:
        word = os.strerror(errno.ENOSPC)
    return line if word in line else f"{word}: {line}"


def _host(tree: PyTree) -> PyTree:
    """NumPy leaves: a checkpoint must not know the devices that it was made on."""
    return jax.tree.map(np.asarray, tree)


def _leaves(tree: PyTree) -> list[list[Any]]:
    """`[path, dtype, shape]` of every leaf."""
    paths = jax.tree_util.tree_leaves_with_path(tree)
    return [[jax.tree_util.keystr(p), str(x.dtype), list(x.shape)] for p, x in paths]


def _leaves_digest(state: PyTree) -> str:
    return _digest(_leaves(state), jax.tree.leaves(state))


def _digest(about: list[list[Any]], leaves: Iterable[np.ndarray]) -> str:
    digest = hashlib.sha256(json.dumps(about).encode())
    for leaf in leaves:
        digest.update(leaf.tobytes())
    return digest.hexdigest()


def _about_digest(about: dict[str, Any]) -> str:
    text = json.dumps([about["leaves"], about["extra"]], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
