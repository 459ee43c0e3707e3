"""What a stage's checkpoint holds, and the state that is made of it again."""

import jax
from flax import traverse_util

from colar_jax.config import StageConfig
from colar_jax.model.lora import split_base
from colar_jax.model.reasoner import PARTS
from colar_jax.training.checkpoints import Checkpoints
from colar_jax.training.state import TrainState, Tree, join


def saved_tree(state: TrainState, frozen: Tree, config: StageConfig) -> Tree:
    """What a stage's checkpoint holds: not the base beside adapters, nor other methods' own modules.

    Its method's modules are there even where they are not trained: what reads the checkpoint needs them as they were.
    """
    own, _ = split_base(join(state.trainable, frozen))
    own = {name: part for name, part in own.items() if name in PARTS or name in config.bound_method.modules}
    return {"parameters": own, "optimizer": state.optimizer, "step": state.step}


def restore_state(
    checkpoints: Checkpoints, step: int, state: TrainState, frozen: Tree, config: StageConfig
) -> tuple[TrainState, Tree]:
    """The state and what is frozen, from a checkpoint, placed as the given ones are, which may be shapes.

    What the checkpoint does not hold, as the base beside adapters, is taken from `frozen`.

    Raises:
        UserError: the checkpoint is of another model.
    """
    saved = checkpoints.restore(step, jax.tree.map(_abstract, saved_tree(state, frozen, config)))
    trainable = _subtree(saved["parameters"], state.trainable)
    flat, given = (traverse_util.flatten_dict(tree) for tree in (saved["parameters"], frozen))
    frozen = traverse_util.unflatten_dict({path: flat.get(path, leaf) for path, leaf in given.items()})
    return TrainState(saved["step"], trainable, saved["optimizer"]), frozen


def _abstract(leaf) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)


def _subtree(tree: Tree, like: Tree) -> Tree:
    return {name: _subtree(tree[name], part) if isinstance(part, dict) else tree[name] for name, part in like.items()}
