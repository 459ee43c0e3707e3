"""A tree as a checkpoint keeps it, flat, a leaf by its path; and how it differs from the tree that is wanted."""

from collections.abc import Iterable
from typing import Any

import jax
import numpy as np


def leaf_of_path(tree: Any) -> dict[str, Any]:
    """The leaves by path, in their order; Python numbers as NumPy scalars.

    Flat, because Orbax's own view of containers (NamedTuples, empty optimizer states) changes with its release.
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    by_path = {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf if hasattr(leaf, "sharding") else np.asarray(leaf)
        for path, leaf in leaves
    }
    if len(by_path) < len(leaves):
        raise ValueError("two leaves of the tree have one path: no key of a dict may contain '/'")
    return by_path


def differences_of(saved: dict[str, Any], wanted: dict[str, Any]) -> Iterable[str]:
    """One line for each path that is in one of the two only, or of another kind in each."""
    for path in sorted(saved.keys() | wanted.keys()):
        if path not in saved:
            yield f"  missing: {path} {_kind(wanted[path])}"
        elif path not in wanted:
            yield f"  unexpected: {path} {_kind(saved[path])}"
        elif _kind(saved[path]) != _kind(wanted[path]):
            yield f"  {path}: saved {_kind(saved[path])}, expected {_kind(wanted[path])}"


def _kind(leaf: Any) -> str:
    return f"{np.dtype(leaf.dtype).name}[{','.join(map(str, leaf.shape))}]"


def with_sharding(leaf: Any) -> Any:
    """What is wanted in a leaf's place, with a device to put it on: the first local one where it has no sharding."""
    if isinstance(leaf, np.ndarray):
        return leaf
    sharding = leaf.sharding or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
