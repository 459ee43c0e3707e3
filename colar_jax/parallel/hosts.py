"""Several processes that run one program on one mesh: who they are, what only the first does, what they agree on."""

import contextlib
import importlib.util
import logging
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from colar_jax.errors import NO_MEMORY, TrainingEnded, UserError
from colar_jax.parallel.mesh import AXES, REPLICATED
from colar_jax.settings import ParallelConfig

logger = logging.getLogger(__name__)

# The exit status after a process was lost. Where no error tells of it, jax misses a heartbeat and aborts the process;
# launch/with_peers.sh makes the same status of that.
LOST_PEER = 75  # EX_TEMPFAIL: try again
# The exit status after a fault of this process alone. It is the higher one, for srun returns the highest of all
# processes' statuses.
OWN_FAULT = 78
_FAREWELL_SECONDS = 3
# What XLA says of a process's own computation, whatever the others do.
_OF_ITS_OWN = ("RESOURCE_EXHAUSTED", "INVALID_ARGUMENT", "UNIMPLEMENTED")


def initialize(settings: ParallelConfig) -> None:
    """Join the other processes of this run, if there are any; before anything else asks jax for devices.

    With `coordinator` given: as it says. Otherwise where a cluster that jax knows (SLURM, TPU VMs) started several
    processes; on any other machine there is one. Only the first process prints and logs.

    Raises:
        UserError: the processes do not come together.
    """
    # Its own answer to SIGTERM would be the only one: whoever is asked to end before the first step would go on.
    jax.config.update("jax_enable_preemption_service", False)
    options: dict = {"heartbeat_timeout_seconds": settings.heartbeat_seconds}
    if settings.coordinator:
        options |= dict(
            coordinator_address=settings.coordinator,
            num_processes=settings.num_processes,
            process_id=settings.process_id,
            cluster_detection_method="deactivate",
        )
    elif not _is_cluster():
        return
    try:
        jax.distributed.initialize(**options)
        num_processes = jax.process_count()
    except (RuntimeError, ValueError) as error:  # of its runtime: an address that nobody answers
        raise UserError(
            f"parallel.coordinator={settings.coordinator!r}: the processes of this run did not come together "
            f"({' '.join(str(error).split())[:300]}). Start all of them, with one address, the same number of "
            "processes, and a number each"
        ) from error
    if not is_first():
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 (for the rest of the process)
        logging.getLogger().setLevel(logging.ERROR)  # what is worth a warning, the first one says
    here = jax.local_device_count()
    devices = "1 device" if here == 1 else f"{here} devices"
    logger.info("process %d of %d, %s here", jax.process_index(), num_processes, devices)


def _is_cluster() -> bool:
    """Whether jax would find other processes: in a SLURM step of several tasks, or on a TPU VM (perhaps of a slice)."""
    if int(os.environ.get("SLURM_NTASKS", "1")) > 1 and "SLURM_STEP_NODELIST" in os.environ:
        return True
    platforms = (os.environ.get("JAX_PLATFORMS") or "tpu").split(",")  # empty: those that there are
    uses_tpu = importlib.util.find_spec("libtpu") is not None and "tpu" in platforms
    return uses_tpu and any(any(Path("/dev").glob(chips)) for chips in ("accel[0-9]*", "vfio/[0-9]*"))


def require_devices() -> None:
    """UserError where jax finds no device to compute on."""
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:
        asked = os.environ.get("JAX_PLATFORMS", "")
        reason = " ".join(str(error).split())[:300] or "no such device was found"
        raise UserError(
            f"jax has no devices to compute on, with JAX_PLATFORMS={asked!r}: {reason}. Unset JAX_PLATFORMS or set it "
            "to cpu, or install jax for the accelerator: pip install -e '.[cuda]' (or tpu)"
        ) from None


def require_32_bits() -> None:
    """UserError where jax is told to compute in 64 bits."""
    if jax.config.jax_enable_x64:
        raise UserError(
            "JAX_ENABLE_X64 is set: this program computes in float32 or bfloat16 (model.dtype), and its compiled loops "
            "hold numbers of 32 bits; unset it"
        )


def is_first() -> bool:
    """Whether this process is the one that writes what a run writes once. UserError where jax has no devices."""
    require_devices()  # this is the first that a program asks of jax
    return jax.process_index() == 0


def fetch(tree):
    """A pytree of arrays on the devices as host arrays, whole in every process."""
    if jax.process_count() == 1:
        return jax.device_get(tree)
    return multihost_utils.process_allgather(tree, tiled=True)


def as_the_first_has(tree):
    """Host arrays of the first process, in all processes, bit for bit: what each makes by itself may differ."""
    if jax.process_count() == 1:
        return tree
    as_bytes = jax.tree.map(lambda own: np.frombuffer(own.tobytes(), np.uint8), tree)  # a device halves 64 bits
    shared = multihost_utils.broadcast_one_to_all(as_bytes)
    return jax.tree.map(
        lambda own, first: np.frombuffer(np.asarray(first).tobytes(), own.dtype).reshape(own.shape), tree, shared
    )


def wait_for_all(what: str) -> None:
    """Returns when every process is here. `what` is said once and tells one such place from another."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(what)


class Agreement:
    """A number that any process may note, and that all get to know at the same step: the signal that stops them.

    With one process there is nothing to agree on, and no device is asked.
    """

    def __init__(self, mesh: Mesh):
        self._sharding = NamedSharding(mesh, P(AXES))
        self._num_devices = mesh.devices.size
        self._largest = jax.jit(lambda numbers: numbers.max(), out_shardings=NamedSharding(mesh, REPLICATED))
        self._of_last_step: jax.Array | None = None

    def late(self, number: int | None) -> int | None:
        """What had been noted by the last call. Never waits for the step under way, but for the one before it."""
        if jax.process_count() == 1:
            return number
        before, self._of_last_step = self._of_last_step, self._dispatch(number)
        return None if before is None else _read(before)

    def forget(self) -> None:
        """What had been noted by the last call is done with; all processes say so at the same step."""
        self._of_last_step = None

    def now(self, number: int | None) -> int | None:
        """What has been noted by now; waits for all processes."""
        return number if jax.process_count() == 1 else _read(self._dispatch(number))

    def _dispatch(self, number: int | None) -> jax.Array:
        own = np.full(self._num_devices, number or 0, np.int32)
        return self._largest(jax.make_array_from_callback(own.shape, self._sharding, lambda index: own[index]))


def _read(number: jax.Array) -> int | None:
    return int(number) or None


_BEFORE_THE_END: list[Callable[[], None]] = []


@contextlib.contextmanager
def also_before_the_end(do: Callable[[], None]) -> Iterator[None]:
    """What is to be done even where `ends_with_its_peers` ends the process without the usual clean-up."""
    _BEFORE_THE_END.append(do)
    try:
        yield
    finally:
        _BEFORE_THE_END.remove(do)


@contextlib.contextmanager
def ends_with_its_peers() -> Iterator[None]:
    """Ends the process, with one clear message, where another one of the run was lost in what is done inside.

    At once, without the usual clean-up: that would wait for the lost process. So does one with a fault of its own (no
    memory left, a full disk), for the others are in the middle of something; with another status, because to try again
    would not help. What ends training is seen by all, and ends them as usual.
    """
    try:
        yield
    except TrainingEnded:
        raise
    except Exception as error:
        # In this order: to count them makes devices ready.
        if not jax.distributed.is_initialized() or jax.process_count() == 1:
            raise
        if not is_of_runtime(error):
            _end_alone(error)
        reason = " ".join(str(error).split())[:300]
        is_its_own = reason.startswith(_OF_ITS_OWN)
        if reason.startswith("RESOURCE_EXHAUSTED"):
            said = f"{NO_MEMORY} ({reason})"
        elif is_its_own:
            said = reason
        else:
            said = (
                f"most likely because another one ended ({reason}). Look at the output of the others; the same "
                "commands again go on from the last checkpoint"
            )
        process = f"process {jax.process_index()} of {jax.process_count()}"
        print(f"error: {process} cannot go on: {said}", file=sys.stderr, flush=True)
        _end_at_once(OWN_FAULT if is_its_own else LOST_PEER)


def is_of_runtime(error: BaseException) -> bool:
    """Whether an error is one of jax's runtime: of a computation, or of what processes send each other.

    What Gloo, which CPUs send by, has to say where a computation is handed on, comes as a ValueError.
    """
    return isinstance(error, jax.errors.JaxRuntimeError) or (isinstance(error, ValueError) and "Gloo" in str(error))


def _end_alone(error: Exception) -> None:
    """End with a fault that the others may not have; where they have, they can say so before this one is gone."""
    if isinstance(error, UserError | OSError):
        print(f"error: {error}", file=sys.stderr, flush=True)
    else:
        traceback.print_exception(error)
    time.sleep(_FAREWELL_SECONDS)
    _end_at_once(OWN_FAULT)


def _end_at_once(status: int) -> None:
    for do in _BEFORE_THE_END:
        do()
    sys.stdout.flush()
    os._exit(status)
