"""Safetensors folders, single or sharded: what is in them without reading it, parts of a tensor, and writing.

A file is eight bytes (the length of the header), the header (JSON: name -> dtype, shape, place) and the data. It is
read here instead of through the `safetensors` package, whose NumPy side has no bfloat16, and whose memory maps would
count as memory of the process: a part of a tensor is read into an array of just its size.
"""

import dataclasses
import json
import math
import struct
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from colar_jax.errors import UserError

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
DTYPES = {
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(jnp.bfloat16),
}
_NAME_OF_DTYPE = {dtype: name for name, dtype in DTYPES.items()}
_METADATA = "__metadata__"


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies: `dtype` is the file's name for it (`BF16`), `start` the byte in the file."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    num_bytes: int

    def read_rows(self, first: int, last: int) -> np.ndarray:
        """Entries `first` to `last` of the leading axis, in the file's dtype, which must be one of `DTYPES`."""
        dtype = DTYPES[self.dtype]
        rows = np.empty((last - first, *self.shape[1:]), dtype)
        with open(self.file, "rb") as file:
            file.seek(self.start + first * math.prod(self.shape[1:]) * dtype.itemsize)
            wanted = memoryview(rows.view(np.uint8).reshape(-1)) if rows.size else bytearray()
            if file.readinto(wanted) != len(wanted):
                raise UserError(f"{self.file} ended while it was being read: it was changed meanwhile")
        return rows


def find_tensors(folder: Path) -> tuple[dict[str, StoredTensor], list[str]]:
    """Every tensor of a folder, and what is wrong with its files (empty if nothing is): one line a fault.

    `model.safetensors` is taken if it is there, else the shards of `model.safetensors.index.json`.

    Raises:
        UserError: the folder has no safetensors at all, or pickled weights only.
    """
    if (folder / SINGLE_FILE).is_file():
        stored, faults, _ = _read_all_headers([folder / SINGLE_FILE])
        return stored, faults
    if (folder / INDEX_FILE).is_file():
        return _find_sharded(folder)
    pickled = sorted(path.name for path in folder.glob("*.bin")) + sorted(path.name for path in folder.glob("*.pt*"))
    if pickled:
        raise UserError(
            f"{folder} has pickled weights only ({pickled[0]}): unpickling a file runs whatever program is in it, so "
            "only safetensors are read. Load the model with transformers where you trust it, and save_pretrained() it"
        )
    raise UserError(f"{folder} has neither {SINGLE_FILE} nor {INDEX_FILE}: there are no weights in it")


def _find_sharded(folder: Path) -> tuple[dict[str, StoredTensor], list[str]]:
    """The tensors of all shards; faults where index and shards do not say the same."""
    try:
        index, repeated = _parse((folder / INDEX_FILE).read_bytes())
        file_of_name = index["weight_map"]
        if not all(isinstance(file, str) for file in file_of_name.values()):
            raise TypeError("a shard's name must be a text")
        shards = sorted(set(file_of_name.values()))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise UserError(f"{folder / INDEX_FILE} is no index of shards ({error!r})") from None
    faults = [f"set twice: {name} in {INDEX_FILE}" for name in repeated]
    missing = [name for name in shards if Path(name).name != name or not (folder / name).is_file()]
    faults += [f"missing shard: {name}, which {INDEX_FILE} names" for name in missing]
    stored, faults_in_headers, damaged = _read_all_headers([folder / name for name in shards if name not in missing])
    faults += faults_in_headers
    for name, file in sorted(file_of_name.items()):
        if name not in stored and file not in missing and folder / file not in damaged:
            faults.append(f"missing: {name} is not in {file}, where {INDEX_FILE} has it")
    for name in sorted(stored.keys() - file_of_name.keys()):
        faults.append(f"missing index entry: {name} is in {stored[name].file.name} but not in {INDEX_FILE}")
    return stored, faults


def _read_all_headers(files: Sequence[Path]) -> tuple[dict[str, StoredTensor], list[str], set[Path]]:
    """Tensors by name, faults, and the files that could not be read."""
    stored: dict[str, StoredTensor] = {}
    faults, damaged = [], set()
    for file in files:
        try:
            tensors, repeated = _read_header(file)
        except ValueError as error:
            faults.append(str(error))
            damaged.add(file)
            continue
        faults += [f"set twice: {name} in {file.name}" for name in repeated]
        for name in tensors.keys() & stored.keys():
            faults.append(f"set twice: {name} in {stored[name].file.name} and in {file.name}")
        stored |= tensors
    return stored, faults, damaged


def _read_header(file: Path) -> tuple[dict[str, StoredTensor], list[str]]:
    """The tensors of one file and the names that stand in it twice; UserError where it is cut short or damaged."""
    size = file.stat().st_size
    with open(file, "rb") as opened:
        first = opened.read(8)
        length = struct.unpack("<Q", first)[0] if len(first) == 8 else size
        if 8 + length > size:
            raise UserError(f"truncated: {file.name} has {size} bytes, less than its header; fetch it again")
        try:
            header, repeated = _parse(opened.read(length))
            entries = {name: entry for name, entry in header.items() if name != _METADATA}
            tensors = {
                name: _stored(file, 8 + length, entry["dtype"], entry["shape"], *entry["data_offsets"])
                for name, entry in entries.items()
            }
            end = max((tensor.start + tensor.num_bytes for tensor in tensors.values()), default=0)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise UserError(f"damaged: {file.name} has no safetensors header ({error!r})") from None
    if end > size:
        raise UserError(f"truncated: {file.name} has {size} bytes of {end}; fetch it again")
    _check_places(file, tensors, 8 + length, size)
    return tensors, repeated


def _check_places(file: Path, tensors: dict[str, StoredTensor], first: int, size: int) -> None:
    """UserError unless the tensors fill the file from byte `first` on, without a gap and without sharing any byte."""
    end = first
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].num_bytes)):
        if tensor.start != end:
            raise UserError(f"damaged: {file.name} has {name} at byte {tensor.start}, and should have it at {end}")
        end += tensor.num_bytes
    if end != size:
        raise UserError(f"damaged: {file.name} has {size - end} bytes that belong to no tensor")


def _stored(file: Path, data_start: int, dtype: str, shape: list[int], first: int, last: int) -> StoredTensor:
    known = DTYPES.get(dtype)
    are_counts = isinstance(shape, list) and all(type(count) is int and count >= 0 for count in (*shape, first, last))
    if not are_counts or last < first:
        raise UserError(f"{shape} at bytes {first} to {last} is no tensor")
    if known is not None and last - first != math.prod(shape) * known.itemsize:
        raise UserError(f"bytes {first} to {last} are not {dtype} {shape}")
    return StoredTensor(file, dtype, tuple(shape), data_start + first, last - first)


def _parse(text: bytes) -> tuple[dict, list[str]]:
    """A JSON object, and the keys that it (or an object in it) has more than once."""
    repeated = []

    def collect(pairs):
        names = [name for name, _ in pairs]
        repeated.extend(
            sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else ()
        )
        return dict(pairs)

    return json.loads(text, object_pairs_hook=collect), repeated


@dataclasses.dataclass(frozen=True)
class TensorToWrite:
    """A tensor that is made when its turn comes: `make` returns an array of `shape` and `dtype`."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    make: Callable[[], np.ndarray]

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def write_tensors(tensors: Sequence[TensorToWrite], folder: Path, max_shard_bytes: int) -> None:
    """Write `model.safetensors`, or shards of at most `max_shard_bytes` with their index, one tensor at a time.

    A tensor larger than the limit has a shard of its own.
    """
    shards: list[list[TensorToWrite]] = [[]]
    for tensor in tensors:
        if shards[-1] and sum(other.num_bytes for other in shards[-1]) + tensor.num_bytes > max_shard_bytes:
            shards.append([])
        shards[-1].append(tensor)
    if len(shards) == 1:
        write_file(shards[0], folder / SINGLE_FILE)
        return
    weight_map = {}
    for number, shard in enumerate(shards, start=1):
        name = f"model-{number:05}-of-{len(shards):05}.safetensors"
        write_file(shard, folder / name)
        weight_map |= {tensor.name: name for tensor in shard}
    total = sum(tensor.num_bytes for tensor in tensors)
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    (folder / INDEX_FILE).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def write_file(tensors: Iterable[TensorToWrite], path: Path) -> None:
    """One safetensors file."""
    tensors, offset, header = list(tensors), 0, {_METADATA: {"format": "pt"}}  # transformers asks for a format
    for tensor in tensors:
        end = offset + tensor.num_bytes
        header[tensor.name] = {
            "dtype": _NAME_OF_DTYPE[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # the data begins at a multiple of 8
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for tensor in tensors:
            array = np.ascontiguousarray(tensor.make(), tensor.dtype)
            assert array.shape == tensor.shape, (tensor.name, array.shape, tensor.shape)
            file.write(array.reshape(-1).view(np.uint8))


def write_arrays(arrays: dict[str, np.ndarray], path: Path) -> None:
    """One safetensors file of arrays by their names. Its mode is the umask's: the `safetensors` package writes 0600."""
    tensors = [
        TensorToWrite(name, array.shape, array.dtype, lambda array=array: array)
        for name, array in sorted(arrays.items())
    ]
    write_file(tensors, path)
