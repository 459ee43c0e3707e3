"""As a script, with eight devices: slots on this mesh (data-fsdp-tensor) say what the decoder of one device says."""

import sys

import jax
import numpy as np
from decoding.test_decoder import random_model
from serving.pico_slots import DECODE, EOS_ID, SEPARATOR_ID, SIZES, ask, assert_same, decoded
from serving.test_scheduler import Listener, said_of
from serving.test_slot_engine import EMBED_STD

from colar_jax.engine import Engine
from colar_jax.methods.colar import Colar
from colar_jax.parallel.mesh import AXES, make_mesh, num_shards, put
from colar_jax.parallel.sharding import parameter_specs, shardings_of
from colar_jax.serving.jobs import Job
from colar_jax.serving.resident import SlotPrograms
from colar_jax.serving.scheduler import Scheduler
from colar_jax.serving.slot_engine import SlotEngine
from colar_jax.serving.traced_ways import TracedWays


def main(mesh_name: str) -> None:
    """Twenty-four requests, one of them given up."""
    sizes = dict(zip(AXES, map(int, mesh_name.split("-")), strict=True))
    mesh = make_mesh(jax.devices()[: int(np.prod(list(sizes.values())))], sizes)
    graph, parameters = random_model()
    parameters = put(parameters, shardings_of(parameter_specs(graph, parameters, mesh), mesh))
    engine = Engine(graph, mesh)
    ways = TracedWays.of(engine, Colar(), DECODE, separator_id=SEPARATOR_ID, eos_id=EOS_ID)
    slots, listener = SlotEngine(SlotPrograms(engine, ways, parameters), SIZES, num_shards(mesh)), Listener()
    assert slots.num_slots == SIZES.slots * sizes["data"] * sizes["fsdp"]
    scheduler = Scheduler(slots, listener.tell, max_waiting=100)
    wishes = [(number % 8, (0.0, 0.8)[number % 2]) for number in range(24)]
    jobs = [Job(ask(number, temperature=temperature), wants_latents=True) for number, temperature in wishes]
    scheduler.submit(jobs)
    scheduler.cancel([jobs[5]])
    scheduler.start()
    listener.wait_for([job for job in jobs if job is not jobs[5]])
    assert scheduler.stop(timeout=60) and slots.num_active == 0
    for job, (number, temperature) in zip(jobs, wishes, strict=True):
        if job is not jobs[5]:
            expected = decoded(number, temperature=temperature)
            assert_same(said_of(listener.told[job]), expected, scale=EMBED_STD)
    print("equal")


if __name__ == "__main__":
    main(sys.argv[1])
