"""`ModelArchive`: a zip from a stranger, checked before and while it is read."""

from __future__ import annotations

import hashlib
import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from framework.errors import FoldwiseError
from framework.sharing.member_names import colliding_names, printable, why_refused

_BLOCK = 1 << 20
_UNREADABLE = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, RuntimeError, OverflowError, ValueError)


class ArchiveError(FoldwiseError):
    """A zip is damaged, or holds something that is not unpacked; names the zip and the member."""


@dataclass(frozen=True)
class Limits:
    """How much a zip may hold. Its own statements are compared with these first; what comes out is counted, too."""

    members: int = 100_000
    total_bytes: int = 64 << 30
    ratio: int = 200
    """Unpacked bytes for one packed byte. Weights are at 1.1, tables at 20; a zip bomb is at 1000."""
    ratio_counts_from: int = 64 << 20
    """Small members may have any ratio: 64 MiB of zeros do no harm."""
    text_bytes: int = 256 << 20
    """One member that is read into memory."""


class ModelArchive:
    """The members of a zip by name, folders left out.

    Args:
        path: the zip.
        limits: what is accepted.

    Raises:
        ArchiveError: no zip, or a member that must not be unpacked. Nothing has been written then.
    """

    def __init__(self, path: Path | str, limits: Limits | None = None) -> None:
        self.path = Path(path)
        self.limits = limits or Limits()
        if not self.path.is_file():
            raise ArchiveError(f"{self.path} is not a file. Give the zip that holds the model.")
        try:
            self._zip = zipfile.ZipFile(self.path)
        except _UNREADABLE as error:
            raise ArchiveError(
                f"{self.path} cannot be read as a zip: {error}. It is another kind of file, or it was cut off on its "
                "way; compare its size with the original and download it again."
            ) from None
        try:
            self.members = self._checked_members()
        except BaseException:
            self._zip.close()
            raise

    def __enter__(self) -> ModelArchive:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._zip.close()

    @property
    def total_bytes(self) -> int:
        """Size of all members when unpacked, as the zip states it."""
        return sum(info.file_size for info in self.members.values())

    def sha256(self) -> str:
        """Of the zip itself."""
        digest = hashlib.sha256()
        with open(self.path, "rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
        return digest.hexdigest()

    def refusal(self, name: str, reason: str) -> ArchiveError:
        """The error for one member."""
        return ArchiveError(f"{self.path}: member '{printable(name, 200)}': {reason}. Nothing was unpacked.")

    def read(self, name: str) -> bytes:
        """The whole content of a member of at most ``limits.text_bytes``."""
        if self.members[name].file_size > self.limits.text_bytes:
            raise self.refusal(name, f"it unpacks to more than {self.limits.text_bytes >> 20} MiB, too much for a text")
        content = bytearray()
        self._stream(name, content.extend)
        return bytes(content)

    def digest(self, name: str) -> str:
        """SHA-256 of a member; nothing is written."""
        digest = hashlib.sha256()
        self._stream(name, digest.update)
        return digest.hexdigest()

    def unpack(self, name: str, target: Path) -> str:
        """Write a member to a new file; its SHA-256.

        Raises:
            FoldwiseError: it could not be written, the disk is full for example.
        """
        digest = hashlib.sha256()

        def keep(block: bytes) -> None:
            digest.update(block)
            file.write(block)

        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with open(target, "xb") as file:
                self._stream(name, keep)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise FoldwiseError(
                f"{target.name} could not be written below {target.parent}: {error.strerror or error}. What had been "
                f"unpacked was removed again; about {self.total_bytes / 1e6:.0f} MB are needed."
            ) from error
        return digest.hexdigest()

    def _stream(self, name: str, take: Callable[[bytes], object]) -> None:
        """Hand over a member block by block; more than it states, or another checksum, is an error."""
        counted, stated = 0, self.members[name].file_size
        try:
            with self._zip.open(self.members[name]) as file:
                while block := file.read(_BLOCK):
                    counted += len(block)
                    if counted > stated:
                        raise self.refusal(name, f"it holds more than the {stated} bytes that the zip states")
                    take(block)
        except FoldwiseError:
            raise
        except _UNREADABLE as error:
            raise self.refusal(name, f"it is damaged ({error}); get the file again") from None
        if counted != stated:
            raise self.refusal(name, f"it holds {counted} bytes where the zip states {stated}; get the file again")

    def _checked_members(self) -> dict[str, zipfile.ZipInfo]:
        entries = self._zip.infolist()
        if len(entries) > self.limits.members:
            raise ArchiveError(
                f"{self.path} has {len(entries)} members; more than {self.limits.members} are not unpacked."
            )
        for info in entries:
            reason = self._why_refused(info)
            if reason is not None:
                raise self.refusal(info.orig_filename, reason)
        names = [info.filename for info in entries if not info.is_dir()]
        collision = colliding_names(names)
        if collision is not None:
            first, second = (printable(name, 200) for name in collision)
            reason = "occurs twice" if first == second else f"and '{second}' are one file on some systems"
            raise ArchiveError(f"{self.path}: member '{first}' {reason}. Nothing was unpacked.")
        self._refuse_overlaps(entries)
        total = sum(info.file_size for info in entries)
        if total > self.limits.total_bytes:
            raise ArchiveError(
                f"{self.path} unpacks to {total / 1e9:.1f} GB; more than {self.limits.total_bytes / 1e9:.1f} GB are "
                "not unpacked. If that is what its author published, raise the limit with --max-size."
            )
        return {info.filename: info for info in entries if not info.is_dir()}

    def _why_refused(self, info: zipfile.ZipInfo) -> str | None:
        # The library cuts a name at a zero byte; other programs see another name then.
        if info.orig_filename != info.filename and "\x00" in info.orig_filename:
            return "its name holds a zero byte"
        reason = why_refused(info.orig_filename)
        if reason is not None:
            return reason
        kind = stat.S_IFMT(info.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            return "it is a link" if kind == stat.S_IFLNK else "it is neither a file nor a folder"
        if info.is_dir() and info.file_size:
            return "it is a folder with content"
        if info.flag_bits & 0x41:
            return "it is encrypted"
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            return "it is packed by a method other than deflate"
        large = info.file_size > self.limits.ratio_counts_from
        if large and info.file_size > self.limits.ratio * max(info.compress_size, 1):
            return f"{info.compress_size} bytes unpack to {info.file_size}, as in a zip bomb"
        return None

    def _refuse_overlaps(self, entries: list[zipfile.ZipInfo]) -> None:
        """Members that share packed bytes are how a small zip unpacks to petabytes at a modest ratio each."""
        end = 0
        for info in sorted(entries, key=lambda entry: entry.header_offset):
            if info.header_offset < end:
                raise self.refusal(info.filename, "it shares its bytes with another member, as in a zip bomb")
            end = info.header_offset + 30 + len(info.orig_filename) + info.compress_size
