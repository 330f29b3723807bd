"""Folders and archives from outside: found, checked and read within limits, never extracted."""

import contextlib
import gzip
import hashlib
import os
import re
import stat
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, NamedTuple, NoReturn

from cml_jax.data.types import DataError

_MAX_RATIO = 200  # images and arrays hardly shrink; bombs reach 1000
_BLOCK = 1 << 20
_MAX_DEPTH = 3
_MAX_ENTRIES = 100_000  # looked at in a search, in about 0.2 s
_BROKEN_ARCHIVE = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    struct.error,
    EOFError,
    OSError,
    RuntimeError,  # zipfile's own for a missing password, and NotImplementedError
    ValueError,
    OverflowError,
)


class Limits(NamedTuple):
    """How large files from outside may be.

    Attributes:
      files: The number of members of an archive, or of files below a folder.
      file_bytes: The size of a file or member.
      total_bytes: The size of an archive, and of all content that is read from it.
      ratio: How many times smaller a member may be in the archive.
    """

    files: int
    file_bytes: int
    total_bytes: int
    ratio: int = _MAX_RATIO


class File(NamedTuple):
    """A file in a folder or in a zip.

    Attributes:
      match: The match of its path within the folder or zip, which is written with "/".
      read: Returns the content, or raises a DataError.
    """

    match: re.Match[str]
    read: Callable[[], bytes]


class Files(NamedTuple):
    """The files in a folder or in a zip, by whether their names are as expected.

    Attributes:
      wanted: The files whose names match; in a folder sorted by name, in a zip in its order.
      others: The names of all other files.
    """

    wanted: list[File]
    others: list[str]


def cache_dir() -> Path | None:
    """The user's cache: `$CML_JAX_CACHE`, `$XDG_CACHE_HOME/cml_jax` or `~/.cache/cml_jax`.

    None where neither variable is set and the user has no home folder.
    """
    own = os.environ.get("CML_JAX_CACHE")
    path = Path(own or os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    try:
        return path.expanduser() if own else path.expanduser() / "cml_jax"
    except RuntimeError:
        return None


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A stream whose content takes the place of a file at the end, as a whole or not at all.

    Args:
      path: The file; its folder exists.

    Raises:
      OSError: The folder cannot be written; nothing is left in it.
    """
    descriptor, temporary = tempfile.mkstemp(
        prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent
    )
    try:
        with open(descriptor, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def search_folders(data_dir: str | os.PathLike[str] | None, data_set: str) -> list[Path]:
    """The folders to look in, best first: `data_dir`, `$CML_JAX_DATA`, the user's cache.

    Args:
      data_dir: A folder, or None.
      data_set: The name of a sub-folder that is looked into right after each folder.

    Returns:
      The folders. Those of the cache may not exist.

    Raises:
      DataError: A folder that the user named does not exist, or none was named and the user has
        no home folder.
    """
    named = {"data_dir": data_dir, "CML_JAX_DATA": os.environ.get("CML_JAX_DATA")}
    folders = []
    for name, value in named.items():
        if value:
            with contextlib.suppress(RuntimeError):  # "~stranger"
                value = Path(value).expanduser()
            if not Path(value).is_dir():
                raise DataError(f"{name}={value} is not a folder: correct it or leave it out")
            folders.append(Path(value))
    if cache := cache_dir():
        folders.append(cache)
    if not folders:
        raise DataError(
            "there is no home folder to look for data in: set CML_JAX_DATA or data_dir to the "
            "folder of the data, or CML_JAX_CACHE to a folder for prepared data"
        )
    return [place for folder in folders for place in (folder, folder / data_set)]


def folders_below(root: Path) -> Iterator[Path]:
    """Yields a folder and those below it, nearest first, for a search.

    At most three levels down, and after 100,000 files and folders no further: a folder may hold
    any number of other data sets. Links are followed; names that start with a dot are not.
    """
    level, entries = [root], 0
    for _ in range(_MAX_DEPTH + 1):
        below = []
        for folder in level:
            yield folder
            with contextlib.suppress(OSError), os.scandir(folder) as found:
                for entry in found:
                    entries += 1
                    if entries > _MAX_ENTRIES:
                        return
                    if not entry.name.startswith(".") and entry.is_dir():
                        below.append(folder / entry.name)
        level = sorted(below)


@contextlib.contextmanager
def open_files(path: Path, pattern: re.Pattern[str], limits: Limits) -> Iterator[Files]:
    """Lists the files in a folder or zip, to be read one by one while it is open.

    Names that start with a dot, and macOS's `__MACOSX`, are ignored, in folders too. Links below a
    folder are followed. In a zip, `\\` separates folders as `/` does, as Windows writes it.

    Args:
      path: The folder or zip.
      pattern: Matches the whole path of a wanted file within the folder or zip.
      limits: How large it may be.

    Raises:
      DataError: Damage, a limit that is exceeded, a file that cannot be read; in a zip also an
        unsafe name, a link, and a member that occurs twice.
    """
    if path.is_dir():
        yield _folder_files(path, pattern, limits)
        return
    with contextlib.ExitStack() as closing:
        with _one_line_errors(path):
            size = path.stat().st_size
            if size > limits.total_bytes:
                raise _bad(path, f"has {size} bytes, more than {limits.total_bytes}")
            archive = closing.enter_context(zipfile.ZipFile(path))
            files = _zip_files(path, archive, pattern, limits)
        yield files


def tar_files(
    path: Path, pattern: re.Pattern[str], limits: Limits
) -> Iterator[tuple[re.Match[str], bytes]]:
    """Yields the files of a tar or tar.gz whose names match, one by one, and their content.

    Damage that only the checksum of a tar.gz shows is told after the last file.

    Args:
      path: The archive.
      pattern: Matches the whole path of a wanted file within the archive.
      limits: How large it may be; its `ratio` is not used, as all content is bounded.

    Raises:
      DataError: Damage, or a limit that is exceeded.
    """
    with contextlib.ExitStack() as closing, _one_line_errors(path):
        stream: Any = closing.enter_context(path.open("rb"))
        zipped = stream.read(2) == b"\x1f\x8b"
        stream.seek(0)
        if zipped:
            stream = closing.enter_context(gzip.GzipFile(fileobj=stream))
        stream = _Bounded(stream, limits.total_bytes)
        archive = closing.enter_context(tarfile.open(fileobj=stream, mode="r|"))
        for count, member in enumerate(archive):
            if count >= limits.files:
                raise _bad(path, f"has more than {limits.files} members")
            match = pattern.fullmatch(member.name.removeprefix("./"))
            if match is None or not member.isreg() or _hidden(match.string):
                continue
            if member.size > limits.file_bytes:
                raise _bad(path, f"has {member.name!r} of {member.size} bytes")
            content = archive.extractfile(member)
            yield match, content.read() if content else b""
        while stream.read(_BLOCK):  # gzip's checksum stands at the end
            pass


class _Bounded:
    """A stream that ends in an error after so many bytes, whatever a header claims."""

    def __init__(self, stream: Any, max_bytes: int):
        self._stream, self._left = stream, max_bytes

    def read(self, size: int) -> bytes:
        content = self._stream.read(size)
        self._left -= len(content)
        if self._left < 0:
            raise ValueError("there is more content than there may be")
        return content


def walk(root: Path, max_files: int | None = None) -> Iterator[str]:
    """Yields the paths of all files below a folder, in sorted order.

    Links to folders are followed, but no folder is entered twice. Names that start with a dot, and
    macOS's `__MACOSX`, are left out. Paths are strings, because 32,000 Paths would take a second.

    Raises:
      DataError: There are more than `max_files` files and folders, or a folder cannot be read.
    """
    seen, count = set(), 0
    for folder, folders, files in os.walk(root, onerror=_unreadable, followlinks=True):
        try:
            status = os.stat(folder)
        except OSError as error:
            _unreadable(error)
        count += 1 + len(files)
        if max_files is not None and count > max_files:
            raise _bad(root, f"has more than {max_files} files and folders")
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not _hidden(name))
        for file in sorted(files):
            if not _hidden(file):
                yield os.path.join(folder, file)


def fingerprint(paths: Iterable[Path]) -> str:
    """The SHA-256 of the names, sizes and times of change of all files: none of them is read."""
    digest = hashlib.sha256()
    for path in [path.resolve() for path in paths]:
        for file in walk(path) if path.is_dir() else [str(path)]:
            try:
                status = os.stat(file)
            except OSError:  # a link that leads nowhere
                status = os.lstat(file)
            name = file.removeprefix(str(path.parent))
            digest.update(os.fsencode(f"{name} {status.st_size} {status.st_mtime_ns}\n"))
    return digest.hexdigest()


def one_line(error: BaseException) -> str:
    """What an error says, short and on one line."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def _folder_files(root: Path, pattern: re.Pattern[str], limits: Limits) -> Files:
    files = Files([], [])
    for path in walk(root, limits.files):
        name = path[len(os.path.join(root, "")) :].replace(os.sep, "/")
        match = pattern.fullmatch(name)
        if match and os.path.isfile(path):
            files.wanted.append(File(match, _reader(path, limits.file_bytes)))
        elif not match:
            files.others.append(name)
    return files


def _reader(path: str, max_bytes: int) -> Callable[[], bytes]:
    def read() -> bytes:
        try:
            with open(path, "rb") as stream:
                size = os.fstat(stream.fileno()).st_size
                # So many bytes are allocated, whatever the file has.
                content = stream.read(min(size, max_bytes) + 1)
        except OSError as error:
            raise DataError(f"{path} cannot be read ({error.strerror}): correct it") from error
        if size > max_bytes:
            raise _bad(path, f"has more than {max_bytes} bytes")
        if len(content) != size:
            raise _bad(path, f"has another size when it is read than {size} bytes")
        return content

    return read


def _zip_files(
    path: Path, archive: zipfile.ZipFile, pattern: re.Pattern[str], limits: Limits
) -> Files:
    members = archive.infolist()
    if len(members) > limits.files:
        raise _bad(path, f"has {len(members)} members, more than {limits.files}")
    files, seen, wanted = Files([], []), set(), []
    for member in members:
        name = member.filename.replace("\\", "/")
        # Nothing is ever extracted; an archive with such names is not the one that was published.
        if PurePosixPath(name).is_absolute() or ".." in name.split("/"):
            raise _bad(path, f"has a member with the unsafe name {member.filename!r}")
        if stat.S_ISLNK(member.external_attr >> 16):
            raise _bad(path, f"has a link, {member.filename!r}")
        if name in seen:
            raise _bad(path, f"has {member.filename!r} twice")
        seen.add(name)
        if name.endswith("/") or _hidden(name):
            continue
        match = pattern.fullmatch(name)
        if match:
            wanted.append(member)
            files.wanted.append(File(match, _member_reader(path, archive, member, limits)))
        else:
            files.others.append(name)
    _check_sizes(path, wanted, limits)
    return files


def _check_sizes(path: Path, members: list[zipfile.ZipInfo], limits: Limits) -> None:
    for member in members:
        # zipfile inflates the other methods without a bound.
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise _bad(path, f"has {member.filename!r} in an unusual compression")
        if member.file_size > limits.file_bytes:
            raise _bad(path, f"has {member.filename!r} of {member.file_size} bytes")
        if member.file_size > limits.ratio * max(member.compress_size, 1):
            raise _bad(path, f"has {member.filename!r}, compressed more than {limits.ratio} times")
    total = sum(member.file_size for member in members)
    if total > limits.total_bytes:
        raise _bad(path, f"has {total} bytes of content, more than {limits.total_bytes}")


def _member_reader(
    path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo, limits: Limits
) -> Callable[[], bytes]:
    def read() -> bytes:
        with _one_line_errors(path), archive.open(member) as stream:
            # Bounded, because the declared size is only a claim.
            content = stream.read(limits.file_bytes + 1)
        if len(content) > limits.file_bytes:
            raise _bad(path, f"has a member of over {limits.file_bytes} bytes")
        return content

    return read


@contextlib.contextmanager
def _one_line_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except DataError:
        raise
    except _BROKEN_ARCHIVE as error:
        raise _bad(path, f"is damaged ({one_line(error)})") from error


def _hidden(name: str) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))


def _unreadable(error: OSError) -> NoReturn:
    raise DataError(f"{error.filename} cannot be read ({error.strerror}): correct it") from error


def _bad(path: Path | str, what: str) -> DataError:
    return DataError(f"{path} {what}: replace it with a good copy")
