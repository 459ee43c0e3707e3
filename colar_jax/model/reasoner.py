"""The whole model: a Llama with the latent head beside its language head, and how tokens become positions."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from colar_jax.model.latent_head import LatentHead, LatentHeadConfig
from colar_jax.model.llama import Llama
from colar_jax.model.llama_config import LlamaConfig
from colar_jax.model.lora import LoraConfig, joined, random_streams, split_base

# A stream of its own for the random weights of a method's own modules.
_OWN_STREAM = 0xC0D1
# What every model has.
PARTS = ("llama", "latent_head")


@dataclasses.dataclass(frozen=True)
class OwnModule:
    """A part of the model that a method brings with it; equal ones are one and the same for all stages of a run.

    The module declares its parameters, their first values and their logical axes, as every module of the model does.

    Args:
        kind: makes it, as `kind(llama, settings, rngs=...)`, where `llama` is the `LlamaConfig` of the base.
        settings: a frozen dataclass of its sizes.
        save: writes its files of an exported folder, as `save(parameters, settings, folder)`; None: it is for training
            alone, and no folder has it.
        load: reads them, as `load(settings, folder)`; without it such a folder runs nowhere but in its own code.
        copy_of: a part of the model whose weights it starts from (without adapters), where it has its own shapes.
    """

    kind: Callable[..., nnx.Module]
    settings: Any
    save: Callable[[dict, Any, Path], None] | None
    load: Callable[[Any, Path], dict] | None = None
    copy_of: str = ""


NONE_OF_ITS_OWN: Mapping[str, OwnModule] = {}


class Reasoner(nnx.Module):
    """Two heads over one hidden state: words, and latent thoughts; and the modules that methods bring with them."""

    def __init__(
        self,
        llama: LlamaConfig,
        latent_head: LatentHeadConfig,
        lora: LoraConfig | None = None,
        modules: Mapping[str, OwnModule] = NONE_OF_ITS_OWN,
        *,
        rngs: nnx.Rngs,
    ):
        self.llama = Llama(llama, lora, rngs=rngs)
        self.latent_head = LatentHead(llama.hidden_size, latent_head, rngs=rngs)
        # The last: the random weights of the others do not depend on whether they are there.
        for name, module in modules.items():
            setattr(self, name, module.kind(llama, module.settings, rngs=rngs))

    def embed_positions(self, token_ids_BT, token_positions_BT, scale_BS, dtype):
        """A batch's tokens summed into positions, `[B, S, D]`, at the scale at which this model feeds them."""
        embeds_BSD = embed_positions(self.llama.embedding[...], token_ids_BT, token_positions_BT, scale_BS, dtype)
        return self.llama.scaled(embeds_BSD)


def build(
    llama: LlamaConfig,
    latent_head: LatentHeadConfig,
    seed: int,
    lora: LoraConfig | None = None,
    modules: Mapping[str, OwnModule] = NONE_OF_ITS_OWN,
):
    """A model with random weights: its graph (static) and its parameters (a nested dict of arrays).

    Everything else in the project is a function of the two: `nnx.merge(graph, parameters)` inside jit costs nothing.
    """
    with nnx.use_eager_sharding(False):
        graph, state = nnx.split(Reasoner(llama, latent_head, lora, modules, rngs=random_streams(seed)))
    parameters = with_copies(nnx.to_pure_dict(state), modules, modules)
    return graph, calibrate(parameters, llama)


def abstract(
    llama: LlamaConfig,
    latent_head: LatentHeadConfig,
    lora: LoraConfig | None = None,
    modules: Mapping[str, OwnModule] = NONE_OF_ITS_OWN,
):
    """As `build`, with the shapes of the parameters instead of arrays: nothing is computed or allocated."""
    with nnx.use_eager_sharding(False):
        shaped = nnx.eval_shape(lambda: Reasoner(llama, latent_head, lora, modules, rngs=random_streams(0)))
        graph, state = nnx.split(shaped)
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), nnx.to_pure_dict(state))
    return graph, shapes


def build_on(
    llama: LlamaConfig,
    latent_head: LatentHeadConfig,
    llama_parameters: dict,
    seed: int,
    lora: LoraConfig | None = None,
    modules: Mapping[str, OwnModule] = NONE_OF_ITS_OWN,
):
    """As `build`, on the parameters of a base model: only latent head and adapters are made, and nothing else ever."""
    graph, _ = abstract(llama, latent_head, lora, modules)
    with nnx.use_eager_sharding(False):
        head = LatentHead(llama.hidden_size, latent_head, rngs=nnx.Rngs(seed))
    parameters = calibrate({"llama": llama_parameters, "latent_head": nnx.to_pure_dict(nnx.state(head))}, llama)
    parameters = with_copies(parameters | initial_modules(llama, seed, modules), modules, modules)
    if lora is not None:
        parameters = joined(parameters, initial_adapters(llama, latent_head, lora, seed))
    return graph, parameters


def initial_modules(llama: LlamaConfig, seed: int, modules: Mapping[str, OwnModule]) -> dict:
    """The methods' own modules of `build_on`, by name."""
    rngs = nnx.Rngs(jax.random.fold_in(jax.random.key(seed), _OWN_STREAM))
    with nnx.use_eager_sharding(False):
        return {
            name: nnx.to_pure_dict(nnx.state(module.kind(llama, module.settings, rngs=rngs)))
            for name, module in modules.items()
        }


def with_copies(parameters: dict, modules: Mapping[str, OwnModule], names: Iterable[str]) -> dict:
    """The parameters, where the modules of these names that start as a copy of another part are one."""
    copies = {
        name: _copied(parameters[modules[name].copy_of], parameters[name]) for name in names if modules[name].copy_of
    }
    return parameters | copies


def _copied(source: dict, like: dict) -> dict:
    """New arrays, of the dtypes of `like`, with what `source` has of it: all but adapters."""
    return {
        name: _copied(source[name], leaf) if isinstance(leaf, dict) else jnp.array(source[name], leaf.dtype, copy=True)
        for name, leaf in like.items()
    }


def initial_adapters(llama: LlamaConfig, latent_head: LatentHeadConfig, lora: LoraConfig, seed: int) -> dict:
    """The adapters of `build`, `{"llama": ...}`, without ever making the weights that they stand beside."""

    @jax.jit  # which drops what is not returned
    def adapters():
        state = nnx.state(Reasoner(llama, latent_head, lora, rngs=random_streams(seed)))
        own, _ = split_base(nnx.to_pure_dict(state))
        return {"llama": own["llama"]}

    with nnx.use_eager_sharding(False):
        return adapters()


def calibrate(parameters: dict, llama: LlamaConfig) -> dict:
    """The parameters with the latent head's `embed_std` measured on their own embedding matrix, as `llama` feeds it.

    The published code looks it up in a table of five model names; the standard deviation over all entries of the matrix
    is what that table holds (docs/method.md, departures).
    """
    embed_std = _std_of_all(parameters["llama"]["embedding"])
    if llama.embedding_scale != 1:
        embed_std = embed_std * llama.embedding_scale
    return parameters | {"latent_head": parameters["latent_head"] | {"embed_std": embed_std}}


@jax.jit
def _std_of_all(matrix_VD):
    """The standard deviation of all entries, in float32 and compiled, so that no array of this size is made.

    In two steps: one float32 sum over the 262 million entries of a Llama-3 embedding would stop growing.
    """

    def mean(x_VD):
        return jnp.mean(jnp.mean(x_VD, axis=1))

    matrix_VD = matrix_VD.astype(jnp.float32)
    return jnp.sqrt(mean(jnp.square(matrix_VD - mean(matrix_VD))))


def embed_positions(embedding_VD, token_ids_BT, token_positions_BT, scale_BS, dtype):
    """Add tokens into positions: `sum of the embeddings of a position's tokens * scale`, `[B, S, D]`.

    Tokens whose position is `S` (padding) fall off the end. With one token a position and scale 1 this is the ordinary
    embedding look-up; groups of step tokens have scale 1/sqrt(tokens), which keeps the variance of an embedding.
    """
    num_positions = scale_BS.shape[1]
    embeds_BTD = embedding_VD[token_ids_BT].astype(jnp.float32)  # sums are in float32, whatever the base is held in

    def add_tokens(embeds_TD, positions_T):
        return jax.ops.segment_sum(embeds_TD, positions_T, num_positions, indices_are_sorted=True)

    embeds_BSD = jax.vmap(add_tokens)(embeds_BTD, token_positions_BT)
    return (embeds_BSD * scale_BS[..., None]).astype(dtype)
