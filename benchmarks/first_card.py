"""The one card that a comparison is measured on: PyTorch takes the first that it sees, and JAX all of them."""

import os


def first_card() -> dict[str, str]:
    """For a process to see one card alone: the first of those that its user, or the cluster, gave; else card 0."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES", "0")
    return {"CUDA_VISIBLE_DEVICES": given.split(",")[0].strip()}
