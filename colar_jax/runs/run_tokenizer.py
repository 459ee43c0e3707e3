"""The tokenizer of a run: its base's, or the one that its config names, of which its folder has a copy."""

import logging
import os
from pathlib import Path

from colar_jax.config import Config
from colar_jax.data.tokenizers import Tokenizer, load_tokenizer
from colar_jax.errors import UserError
from colar_jax.json_object import read_json_object
from colar_jax.runs.places import is_same
from colar_jax.runs.run_folder import CONFIG_FILE, TOKENIZER_FOLDER
from colar_jax.training.stage import CHECKPOINTS_FOLDER

logger = logging.getLogger(__name__)


def run_tokenizer(config: Config, base: Path | None) -> Tokenizer:
    """The tokenizer of a run; where the one that its config names is not there any more, the run's own copy.

    Args:
        base: the folder of its base model; None without one.

    Raises:
        UserError: there is no such tokenizer, and no copy of it; or it is not one that we can use.
    """
    if base is not None and config.uses_tokenizer_of_base:
        return load_tokenizer(str(base))
    name = config.data.tokenizer
    try:
        return load_tokenizer(name)
    except UserError:
        kept = None if os.path.exists(os.path.expanduser(name)) else _kept(config)
        if kept is None:
            raise
    logger.warning("data.tokenizer=%r cannot be found: the run's copy of it is taken, %s", name, kept)
    return load_tokenizer(str(kept))


def _kept(config: Config) -> Path | None:
    """A run's copy of the tokenizer that its config names; None: it has none, or that of another.

    A run that was never trained may have been stopped before its copy was whole.
    """
    workdir = Path(config.workdir).expanduser()
    try:
        kept = read_json_object(workdir / CONFIG_FILE)["data"]["tokenizer"]
    except (UserError, KeyError, TypeError):
        return None
    folder, is_trained = workdir / TOKENIZER_FOLDER, any(workdir.glob(f"*/{CHECKPOINTS_FOLDER}"))
    is_of_it = is_same("data.tokenizer", config.data.tokenizer, kept, config.stages)
    return folder if is_trained and is_of_it and folder.is_dir() else None
