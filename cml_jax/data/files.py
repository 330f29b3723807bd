"""Members of archives and folders from outside, read in memory within limits, never extracted."""

import os
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from cml_jax.data.types import DataError

_MAX_RATIO = 200  # images and arrays hardly shrink; bombs reach 1000

_BROKEN_ZIP = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    OSError,
    RuntimeError,  # zipfile's own for a missing password, and NotImplementedError
    ValueError,
)


def read_zip(
    path: Path,
    pattern: re.Pattern[str],
    *,
    max_members: int,
    max_member_bytes: int,
    max_bytes: int,
    max_ratio: int = _MAX_RATIO,
) -> Iterator[tuple[re.Match[str], bytes]]:
    """Yields the members of a zip whose names match, as `(match, content)`; the rest is ignored.

    Args:
      path: the zip.
      pattern: matched against a member's whole name.
      max_members: of the archive, ignored ones included.
      max_member_bytes: of a member's content.
      max_bytes: of the file, and of all content together.
      max_ratio: how far a member may be compressed.

    Raises:
      DataError: damage, an unsafe name, a link, a member that occurs twice, or a limit passed.
    """
    try:
        size = path.stat().st_size
        if size > max_bytes:
            raise _bad(path, f"has {size} bytes, more than {max_bytes}")
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if len(members) > max_members:
                raise _bad(path, f"has {len(members)} members, more than {max_members}")
            wanted = _wanted(path, members, pattern)
            contents = [member for _, member in wanted]
            _check_sizes(path, contents, max_member_bytes, max_bytes, max_ratio)
            for match, member in wanted:
                with archive.open(member) as stream:
                    # Bounded, because the declared size is only a claim.
                    content = stream.read(max_member_bytes + 1)
                if len(content) > max_member_bytes:
                    raise _bad(path, f"has a member of over {max_member_bytes} bytes")
                yield match, content
    except DataError:
        raise
    except _BROKEN_ZIP as error:
        raise _bad(path, f"is damaged ({one_line(error)})") from error


def read_folder(
    root: Path, pattern: re.Pattern[str], *, max_member_bytes: int
) -> Iterator[tuple[re.Match[str], bytes]]:
    """Yields the files below a folder whose names match, as `(match, content)`, in sorted order.

    Args:
      root: the folder; links to folders below it are not followed.
      pattern: matched against a file's whole path from the parent of `root`, with `/`.
      max_member_bytes: of a file.

    Raises:
      DataError: a file that is too large, or cannot be read.
    """
    for path in map(Path, walk(root)):
        match = pattern.fullmatch(path.relative_to(root.parent).as_posix())
        if not match or not path.is_file():
            continue
        try:
            with path.open("rb") as stream:
                content = stream.read(max_member_bytes + 1)
        except OSError as error:
            raise DataError(f"{path} cannot be read ({error.strerror}): correct it") from error
        if len(content) > max_member_bytes:
            raise _bad(path, f"has more than {max_member_bytes} bytes")
        yield match, content


def walk(root: Path) -> Iterator[str]:
    """All files below a folder, in sorted order; strings, as 32,000 Paths would take a second."""
    for folder, folders, files in os.walk(root):
        folders.sort()
        for file in sorted(files):
            yield os.path.join(folder, file)


def one_line(error: BaseException) -> str:
    """What an error says, short and on one line."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def _wanted(
    path: Path, members: list[zipfile.ZipInfo], pattern: re.Pattern[str]
) -> list[tuple[re.Match[str], zipfile.ZipInfo]]:
    wanted, seen = [], set()
    for member in members:
        name = member.filename
        # Nothing is ever extracted; an archive with such names is not the one that was published.
        if PurePosixPath(name).is_absolute() or ".." in re.split(r"[/\\]", name):
            raise _bad(path, f"has a member with the unsafe name {name!r}")
        if stat.S_ISLNK(member.external_attr >> 16):
            raise _bad(path, f"has a link, {name!r}")
        if name in seen:
            raise _bad(path, f"has {name!r} twice")
        seen.add(name)
        match = pattern.fullmatch(name)
        if match:
            wanted.append((match, member))
    return wanted


def _check_sizes(
    path: Path,
    members: list[zipfile.ZipInfo],
    max_member_bytes: int,
    max_bytes: int,
    max_ratio: int,
) -> None:
    for member in members:
        # zipfile inflates the other methods without a bound.
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise _bad(path, f"has {member.filename!r} in an unusual compression")
        if member.file_size > max_member_bytes:
            raise _bad(path, f"has {member.filename!r} of {member.file_size} bytes")
        if member.file_size > max_ratio * max(member.compress_size, 1):
            raise _bad(path, f"has {member.filename!r}, compressed more than {max_ratio} times")
    total = sum(member.file_size for member in members)
    if total > max_bytes:
        raise _bad(path, f"has {total} bytes of content, more than {max_bytes}")


def _bad(path: Path, what: str) -> DataError:
    return DataError(f"{path} {what}: replace it with a good copy")
