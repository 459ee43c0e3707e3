"""Parameters of a tiny model that are larger than at first: what they compute differs from row to row."""

import numpy as np
from flax import traverse_util


def enlarged(parameters, hidden_size: int, seed: int):
    """Normal draws with a variance of 1 / fan-in (norms about 1), in place of a model's initial parameters."""
    rng = np.random.default_rng(seed)

    def larger(path, leaf):
        shift = 1.0 if path[-1] in ("scale", "norm_scale", "embed_std") else 0.0
        fan_in = leaf.shape[-2] if path[-1] == "kernel" else hidden_size
        return (shift + rng.normal(size=leaf.shape) / np.sqrt(fan_in)).astype(np.float32)

    flat = traverse_util.flatten_dict(parameters)
    return traverse_util.unflatten_dict({path: larger(path, leaf) for path, leaf in sorted(flat.items())})
