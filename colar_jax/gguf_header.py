"""The header of a GGUF file (llama.cpp's format): its metadata, and where each tensor lies.

Read here, within the bounds of the file, instead of through `gguf.GGUFReader`, which takes seconds for a vocabulary and
loops over whatever count a damaged file claims. Blocks of numbers are the `gguf` package's to decode
(`weights.gguf_tensors`). The layout is that of ggml's docs/gguf.md, versions 2 and 3, little endian.
"""

import dataclasses
import functools
import math
import struct
from pathlib import Path
from typing import Any

from colar_jax.errors import UserError

SUFFIX = ".gguf"
_MAGIC, _VERSIONS, _DEFAULT_ALIGNMENT = b"GGUF", (2, 3), 32
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_TEXT, _ARRAY = 8, 9
_MOST_DIMENSIONS = 4


@dataclasses.dataclass(frozen=True)
class StoredBlocks:
    """A tensor of the file: its ggml type by number, its shape as torch has it, and its first byte."""

    type_number: int
    shape: tuple[int, ...]
    start: int


@dataclasses.dataclass(frozen=True)
class GgufHeader:
    """All that the file says before its data."""

    path: Path
    metadata: dict[str, Any]  # numbers, texts and lists of them, by llama.cpp's names
    tensors: dict[str, StoredBlocks]
    num_bytes: int  # of the whole file

    @property
    def architecture(self) -> str:
        """llama.cpp's name of the model's type."""
        return self.metadata["general.architecture"]


def is_gguf(path: Path | str) -> bool:
    """Whether a path names a GGUF file by its suffix."""
    return str(path).lower().endswith(SUFFIX)


def read_gguf_header(path: Path) -> GgufHeader:
    """The header of a file; UserError where it is none, is cut short, or is damaged."""
    try:
        status = path.stat()
        return _read(path, status.st_size, status.st_mtime_ns)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None


@functools.lru_cache(maxsize=4)  # the model, its tokenizer and its identity each ask for it
def _read(path: Path, num_bytes: int, changed_at: int) -> GgufHeader:
    with open(path, "rb") as file:
        start = file.read(24)
        if start[:4] != _MAGIC:
            raise UserError(f"{path} is no GGUF file: it does not begin with {_MAGIC.decode()}")
        if len(start) < 24:
            raise UserError(f"{path} is cut short: {num_bytes} bytes hold no header; fetch it again")
        version, num_tensors, num_entries = struct.unpack_from("<IQQ", start, 4)
        if version not in _VERSIONS:
            raise UserError(f"{path} is GGUF of version {version}: only {' and '.join(map(str, _VERSIONS))} are read")
        file.seek(0)
        # Tensors follow the header, and are most of the file: what is read of it grows as it is needed.
        cursor = _Cursor(file, num_bytes, 24)
        try:
            metadata = dict(_entry(cursor) for _ in range(num_entries))
            tensors = dict(_tensor(cursor) for _ in range(num_tensors))
        except (ValueError, struct.error) as error:
            raise UserError(f"{path} is cut short or damaged ({error}); fetch it again") from None
    if not isinstance(metadata.get("general.architecture"), str):
        raise UserError(f"{path} does not say its general.architecture: it is no file of a model")
    if (num_parts := metadata.get("split.count", 1)) != 1:
        raise UserError(f"{path} is one of {num_parts} parts of a model: merge them (llama-gguf-split --merge)")
    alignment = metadata.get("general.alignment", _DEFAULT_ALIGNMENT)
    if type(alignment) is not int or alignment < 1:
        raise UserError(f"{path} has general.alignment={alignment!r}: expected a whole number above 0")
    data_start = -(-cursor.place // alignment) * alignment
    placed = {name: dataclasses.replace(blocks, start=data_start + blocks.start) for name, blocks in tensors.items()}
    return GgufHeader(path, metadata, placed, num_bytes)


class _Cursor:
    """Reads values one after the other; a length beyond the file's end is an error before anything is read."""

    _STEP = 1 << 24

    def __init__(self, file, num_bytes: int, place: int):
        self._file, self._num_bytes, self.place = file, num_bytes, place
        self._held = file.read(min(self._STEP, num_bytes))

    def take(self, count: int) -> bytes:
        """So many bytes from here."""
        end = self.place + count
        if end > self._num_bytes:
            raise ValueError(f"it ends at byte {self._num_bytes}, and byte {end} is asked for")
        while len(self._held) < end:
            more = self._file.read(max(self._STEP, end - len(self._held)))
            if not more:
                raise ValueError("it ended while it was being read")
            self._held += more
        taken = self._held[self.place : end]
        self.place = end
        return taken

    def number(self, code: str) -> Any:
        """A number of a `struct` code."""
        return struct.unpack("<" + code, self.take(struct.calcsize("<" + code)))[0]

    def text(self) -> str:
        """A text with its length before it."""
        return self.take(self.number("Q")).decode("utf-8")  # UnicodeDecodeError is a ValueError

    def list_of(self, kind: int) -> list:
        """A list, with its length before it."""
        count = self.number("Q")
        if kind in _SCALARS:
            code = _SCALARS[kind]
            return list(struct.unpack(f"<{count}{code}", self.take(count * struct.calcsize("<" + code))))
        if kind != _TEXT:
            raise ValueError(f"a list of values of kind {kind}")
        if count > (self._num_bytes - self.place) // 8:  # each has its length, of 8 bytes
            raise ValueError(f"a list of {count} texts")
        return [self.text() for _ in range(count)]


def _entry(cursor: _Cursor) -> tuple[str, Any]:
    name, kind = cursor.text(), cursor.number("I")
    if kind in _SCALARS:
        return name, cursor.number(_SCALARS[kind])
    if kind == _TEXT:
        return name, cursor.text()
    if kind != _ARRAY:
        raise ValueError(f"{name} is a value of kind {kind}")
    return name, cursor.list_of(cursor.number("I"))


def _tensor(cursor: _Cursor) -> tuple[str, StoredBlocks]:
    name, num_dimensions = cursor.text(), cursor.number("I")
    if not 1 <= num_dimensions <= _MOST_DIMENSIONS:
        raise ValueError(f"{name} has {num_dimensions} dimensions")
    shape = tuple(cursor.number("Q") for _ in range(num_dimensions))[::-1]
    if not 0 < math.prod(shape) < 1 << 50:
        raise ValueError(f"{name} is {list(shape)}")
    return name, StoredBlocks(cursor.number("I"), shape, cursor.number("Q"))
