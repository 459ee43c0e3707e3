"""On what, and in which batches, the decodes of an evaluation are timed: other times are no part of its report.

What was decoded before is not decoded again, for what is right does not depend on it.
"""

from collections.abc import Sequence

from colar_jax.runs.run import Run
from colar_jax.runs.sweep.store import StoredDecode


def timed_on(run: Run) -> dict[str, str | int]:
    """What a decode's seconds depend on besides the model and the questions, of this evaluation of a run."""
    mesh = run.engine.for_decoding.mesh
    most = max(len(encoded) for encoded in run.tests.values())
    return {
        "device": mesh.devices.flat[0].device_kind,
        "num_devices": mesh.devices.size,
        "mesh": ",".join(f"{axis}={size}" for axis, size in mesh.shape.items() if size > 1),
        "batch_size": min(run.config.eval.batch_size, most),
    }


def are_timed_on(decodes: Sequence[StoredDecode], here: dict[str, str | int]) -> bool:
    """Whether all decodes were timed as `here`; those of earlier versions do not say, and are taken to be."""
    return all(decode.timed_on in (None, here) for decode in decodes)
