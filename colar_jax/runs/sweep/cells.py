"""The cells of a sweep: every data set, speed, limit of the reasoning, temperature and seed of a stage."""

import dataclasses
from collections.abc import Sequence

from colar_jax.config import Config, DecodeConfig, parse_positive
from colar_jax.data.prompts import Speed
from colar_jax.errors import UserError
from colar_jax.report.results import AS_CONFIGURED
from colar_jax.runs.asked_speeds import decode_speeds


@dataclasses.dataclass(frozen=True)
class Cell:
    """One decode of one data set."""

    stage: str
    dataset: str
    speed: Speed
    latent_limit: str  # as `Result` has it
    temperature: str
    seed: int | None  # None: greedy
    decode: DecodeConfig
    trim: str = AS_CONFIGURED  # after how many agreements chains end; "-": they are left alone

    @property
    def sampling(self) -> str:
        return "greedy" if self.seed is None else "sampled"

    @property
    def shows_samples(self) -> bool:
        """Whether its answers are kept as texts: those of the greedy decode, and of the first seed."""
        return self.seed in (None, 0)


def cells_of(config: Config, stage: str, datasets: Sequence[str]) -> list[Cell]:
    """What `config.eval` asks of a stage. Greedy decoding has no temperature, so it is done once for all of them."""
    if config.eval.temperatures and not config.eval.seeds:
        raise UserError(
            f"eval.temperatures={config.eval.temperatures!r} with eval.seeds=0: nothing is sampled; set eval.seeds"
        )
    limits = _limits(config, stage) or {AS_CONFIGURED: config.decode}
    cells = []
    for dataset in datasets:
        for speed in decode_speeds(config, stage):
            for limit, decode in limits.items():
                for trim in (AS_CONFIGURED, *_trims(config, stage)):
                    if config.eval.greedy:
                        cells.append(Cell(stage, dataset, speed, limit, AS_CONFIGURED, None, decode, trim))
                    for temperature, tempered in _temperatures(config, decode).items():
                        for seed in range(config.eval.seeds):
                            cells.append(Cell(stage, dataset, speed, limit, temperature, seed, tempered, trim))
    return list(dict.fromkeys(cells))  # what is listed twice (eval.speeds=2,2.0) is decoded once


def is_looked_at(config: Config, cell: Cell) -> bool:
    """Whether it is recorded what was thought: in greedy decodes as the run's config has them. The inspector has no
    other limits."""
    is_own = cell.seed is None and cell.trim == AS_CONFIGURED and cell.decode == config.decode
    return bool(config.eval.latent_words) and is_own


def _trims(config: Config, stage: str) -> tuple[str, ...]:
    """The numbers of agreements at which a stage's chains are trimmed; none where there are no chains in words."""
    thinking = config.stages[stage].bound_method.thinking(config.decode, 0, greedy=True)
    if not config.eval.trim.verifier or not thinking.in_words:
        return ()
    return tuple(str(m) for m in parse_positive("eval.trim.agreements", config.eval.trim.agreements, int))


# The limits of a chain -> the setting that lists what to evaluate of it: in latents, and in words.
_LIMITS = {"max_latents": "latent_limits", "max_step_tokens": "word_budgets"}


def room_for(config: Config) -> DecodeConfig:
    """The settings of a program that has room for every cell."""
    most = {field: max(_listed(config, field), default=getattr(config.decode, field)) for field in _LIMITS}
    return dataclasses.replace(config.decode, **most)


def _listed(config: Config, field: str) -> tuple[int, ...]:
    """The values of a limit that the evaluation asks for."""
    setting = _LIMITS[field]
    return tuple(parse_positive(f"eval.{setting}", getattr(config.eval, setting), int))


def reads_limit(config: Config, stage: str, field: str) -> bool:
    """Whether a stage's method thinks longer where a limit of `decode` is higher."""

    def num_thoughts(decode: DecodeConfig) -> int:
        return config.stages[stage].bound_method.thinking(decode, 0, greedy=True).max_thoughts

    one_more = dataclasses.replace(config.decode, **{field: getattr(config.decode, field) + 1})
    return num_thoughts(one_more) != num_thoughts(config.decode)


def _limits(config: Config, stage: str) -> dict[str, DecodeConfig]:
    """The settings of each limit by its text; none where the stage's method reads neither of the two."""
    return {
        str(limit): _limited(config, field, limit)
        for field in _LIMITS
        if reads_limit(config, stage, field)
        for limit in _listed(config, field)
    }


def _limited(config: Config, field: str, limit: int) -> DecodeConfig:
    try:
        return dataclasses.replace(config.decode, **{field: limit})
    except UserError as error:
        raise UserError(f"eval.{_LIMITS[field]}={getattr(config.eval, _LIMITS[field])!r}: {error}") from None


def _temperatures(config: Config, decode: DecodeConfig) -> dict[str, DecodeConfig]:
    temperatures = parse_positive("eval.temperatures", config.eval.temperatures, float)
    if not temperatures:
        return {AS_CONFIGURED: decode}
    return {
        f"{t:g}": dataclasses.replace(decode, latent_temperature=t, stop_temperature=t, answer_temperature=t)
        for t in temperatures
    }
