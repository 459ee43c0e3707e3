"""All of a server, put together: a loaded model, its slots, their scheduler, the API, a socket."""

import asyncio
import contextlib
import dataclasses
import logging
import threading

import jax

from colar_jax.errors import UserError, no_memory
from colar_jax.serving.app import make_app
from colar_jax.serving.connections import Server
from colar_jax.serving.counters import Metrics
from colar_jax.serving.guards import Bounds
from colar_jax.serving.jobs import Job
from colar_jax.serving.latent_words import WordReader
from colar_jax.serving.narration import Happening
from colar_jax.serving.resident import SlotPrograms
from colar_jax.serving.scheduler import Scheduler
from colar_jax.serving.service import Served, Service
from colar_jax.serving.sizes import SlotSizes
from colar_jax.serving.slot_engine import SlotEngine
from colar_jax.serving.traced_ways import TracedWays
from colar_jax.thinker.thinker import Thinker

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Plan:
    """How a model is served.

    Attributes:
        name: what clients call it.
        most_waiting: answers that may wait for a slot.
        most_answers: of one request.
        most_connections: more are refused.
        seconds_to_finish: what is under way at SIGTERM may take so long.
        refills: False for static batches, to compare with.
    """

    name: str
    sizes: SlotSizes = dataclasses.field(default_factory=SlotSizes)
    bounds: Bounds = dataclasses.field(default_factory=Bounds)
    most_waiting: int = 256
    most_answers: int = 16
    most_connections: int = 1024
    seconds_to_finish: float = 60.0
    refills: bool = True


class Deployment:
    """A model that is ready to be served."""

    def __init__(self, thinker: Thinker, plan: Plan):
        refuse_what_cannot_be_served(thinker)
        tokenizer, engine = thinker.tokenizer, thinker.engine
        ways = TracedWays.of(
            engine, thinker.method, thinker.decode, separator_id=tokenizer.separator_id, eos_id=tokenizer.eos_id
        )  # fmt: skip
        sizes = plan.sizes
        if not ways.limit_is_choosable:  # whatever is asked, no request thinks longer
            sizes = dataclasses.replace(sizes, max_thoughts=min(sizes.max_thoughts, ways.max_thoughts))
        if ways.min_thoughts > sizes.max_thoughts:
            raise UserError(
                f"--max_latents={sizes.max_thoughts}: the stage thinks {ways.min_thoughts} times, whatever is asked"
            )
        programs = SlotPrograms(engine, ways, thinker.parameters)
        self.plan, self.metrics, self._loop = plan, Metrics(), None
        try:
            self.slots = SlotEngine(programs, sizes, engine.num_shards)
        except MemoryError as error:  # of the host, on which empty slots are made
            raise UserError(
                f"--slots={sizes.slots} --max_prompt={sizes.max_prompt} --max_latents={sizes.max_thoughts} "
                f"--max_tokens={sizes.max_tokens}: no memory for so many positions: {error}"
            ) from None
        speeds = thinker.run.trained_speeds(thinker.stage)
        # Not the run, which holds the base that adapters stand beside.
        recipes = thinker.run.trained_recipes(thinker.stage)
        served = Served(plan.name, ways, tokenizer, speeds, thinker.method.has_speed, recipes, sizes)
        self.scheduler = Scheduler(
            self.slots,
            self._tell,
            max_waiting=plan.most_waiting,
            in_words=ways.in_words,
            read=WordReader(thinker.parameters["llama"]["embedding"], tokenizer).read,
            refills=plan.refills,
            observer=self.metrics,
        )
        # A request of more would be told to try again for ever.
        most_answers = min(plan.most_answers, plan.most_waiting + self.slots.num_slots)
        self.service = Service(served, self.scheduler, most_answers=most_answers)
        self.app = make_app(self.service, self.metrics, plan.bounds, lifespan=self._lifespan)
        self._is_stopping, self._compilations = threading.Event(), self.slots.compilations()

    @contextlib.asynccontextmanager
    async def _lifespan(self, app):
        """While the API is up, answers are made; at its end those that are under way are finished."""
        self._loop = asyncio.get_running_loop()
        self.scheduler.start()
        compiling = threading.Thread(target=self._compile, name="compilations", daemon=True)
        compiling.start()
        yield
        self._is_stopping.set()
        await asyncio.to_thread(self.scheduler.stop, timeout=self.plan.seconds_to_finish)
        await asyncio.to_thread(compiling.join)  # a program that is being compiled cannot be left

    def _compile(self) -> None:
        try:
            for _ in self._compilations:
                if self._is_stopping.is_set():
                    return
        except Exception as error:
            if not (words := no_memory(error)):
                raise
            logger.warning(
                "%d of %d programs are compiled, which serve everything: %s", *self.slots.num_programs, words
            )
            return
        logger.info("all %d programs are compiled", self.slots.num_programs[0])

    def _tell(self, told: list[tuple[Job, list[Happening]]]) -> None:
        """From the thread of the devices to the event loop, once for all that has happened."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens any more
            self._loop.call_soon_threadsafe(_hand_out, told)

    def server(self) -> Server:
        """What serves it on a socket. The two programs that serve everything are compiled here.

        Not while the API starts: what uvicorn calls then ends the process with a traceback where it fails.
        """
        plan = self.plan
        next(self._compilations), next(self._compilations)
        return Server(
            self.app,
            seconds_to_send=plan.bounds.seconds_to_send,
            seconds_to_finish=plan.seconds_to_finish,
            most_connections=plan.most_connections,
        )


def _hand_out(told: list[tuple[Job, list[Happening]]]) -> None:
    for job, happenings in told:
        job.owner.put(job.index, happenings)


def refuse_what_cannot_be_served(thinker: Thinker) -> None:
    """UserError for a model or devices that the slots cannot be made of."""
    if jax.process_count() > 1:
        raise UserError(f"{jax.process_count()} processes: a server is one; start one on each machine")
    if not thinker.decode.latents_see_question:
        raise UserError("decode.latents_see_question=False is for evaluating: a server's latents see their question")
    thinking = thinker.run.thinking(thinker.stage)
    if thinking.sweeps is not None:
        raise UserError(
            f"stage {thinker.stage} makes all its latents at once, and a server's slots feed one position a step: ask "
            "it with colar_jax.generate, or colar_jax.load"
        )
    if thinking.changes_speed:
        raise UserError(
            f"stage {thinker.stage} changes its speed in mid-chain, which the server does not do: ask it with "
            "colar_jax.generate, or colar_jax.load"
        )
    if thinker.engine.mesh.shape["tensor"] > 1:
        tensor, is_own = thinker.engine.mesh.shape["tensor"], bool(thinker.run.config.parallel.decode_mesh)
        raise UserError(
            f"parallel.{'decode_mesh' if is_own else 'mesh'}: tensor={tensor}: slots are split over data and fsdp, not "
            "over heads; leave it out"
        )
