"""Settings of the devices: how the model and its batches lie on them (docs/sharding.md)."""

import dataclasses

from colar_jax.settings.checks import one_of, require, split_names

MESH_AXES = ("data", "fsdp", "tensor")


@dataclasses.dataclass(frozen=True)
class ParallelConfig:
    """Which devices do what. None of it changes what is computed, so a run may go on with other settings.

    `mesh` is `auto`, or sizes such as `fsdp=4,tensor=2`: axes left out have size 1, but `data`, which takes the rest.
    """

    coordinator: str = ""  # host:port of the first of several processes; empty: found on SLURM and TPU VMs, else one
    num_processes: int = 1  # with `coordinator`
    process_id: int = 0  # with `coordinator`: this process's number, from 0
    heartbeat_seconds: int = 60  # a process without a sign of life for so long is lost, and the others stop
    mesh: str = "auto"  # auto: split the model as little as memory allows; use the other devices for data
    decode_gather: str = (
        "auto"  # whole weights once a rollout, or each layer's at every step; auto: once where they fit
    )
    # Sizes of the mesh that a run decodes on (validations, rollouts, evaluations), where weights are to lie otherwise
    # than in training: tensor=8 keeps in place what fsdp would gather at every step. Empty: that of training.
    decode_mesh: str = ""
    attention: str = "auto"  # xla, cudnn (GPU), splash (TPU); auto: the platform's, where its conditions are met

    def __post_init__(self):
        parse_mesh(self.mesh)
        if self.decode_mesh:
            sizes = parse_mesh(self.decode_mesh, "parallel.decode_mesh")
            require(sizes is not None, "parallel.decode_mesh=auto: name sizes, such as tensor=8, or leave it empty")
        require(self.heartbeat_seconds > 0, f"parallel.heartbeat_seconds={self.heartbeat_seconds} must be positive")
        require(
            0 <= self.process_id < self.num_processes,
            f"parallel.process_id={self.process_id} is not between 0 and num_processes={self.num_processes} - 1",
        )
        require(
            bool(self.coordinator) or self.num_processes == 1,
            f"parallel.num_processes={self.num_processes} without parallel.coordinator: give the first process's "
            "host:port",
        )
        port = self.coordinator.rpartition(":")
        require(
            not self.coordinator or (bool(port[0]) and port[2].isdigit()),
            f"parallel.coordinator={self.coordinator!r}: write it as host:port",
        )
        one_of("parallel.decode_gather", self.decode_gather, ("auto", "once", "layer"))
        one_of("parallel.attention", self.attention, ("auto", "xla", "cudnn", "splash"))


def parse_mesh(text: str, field: str = "parallel.mesh") -> dict[str, int] | None:
    """The sizes that the setting `field` names, by axis; None for `auto`. UserError for anything else."""
    if text == "auto":
        return None
    sizes: dict[str, int] = {}
    for part in split_names(text):
        axis, _, size = (piece.strip() for piece in part.partition("="))
        one_of(f"an axis of {field}", axis, MESH_AXES)
        require(
            size.isdigit() and int(size) > 0,
            f"{field}={text!r}: {part!r} gives {axis} no size; write it as in fsdp=4,tensor=2, or auto",
        )
        require(axis not in sizes, f"{field}={text!r} names {axis} twice")
        sizes[axis] = int(size)
    require(bool(sizes), f"{field}={text!r}: write sizes as in fsdp=4,tensor=2, or auto")
    return sizes


AUTOMATIC = ParallelConfig()
