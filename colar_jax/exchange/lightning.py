"""Checkpoints of the published code (PyTorch Lightning `.ckpt`) as our arrays. The only file that needs torch.

Their state dict holds the LoRA matrices as PEFT names them while training
(`llm.base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight`) and the latent head
(`latent_policy.fc.0.weight`, ..., `latent_policy.mean.weight`, `latent_policy.log_std.weight`). The frozen base model
is not in it, or is not used: it comes from `model.base`.
"""

import dataclasses
import logging
import re
from pathlib import Path

import numpy as np

from colar_jax.errors import UserError

logger = logging.getLogger(__name__)

_LORA = re.compile(r"llm\.(?P<module>base_model\.model\..+)\.lora_(?P<matrix>[AB])\.default\.weight")
_HEAD_PREFIX = "latent_policy."
_BASE_PREFIX = "llm."


@dataclasses.dataclass(frozen=True)
class PublishedCheckpoint:
    """What is trained in a published checkpoint, float32."""

    adapter: dict[str, np.ndarray]  # by the names of a PEFT adapter file
    latent_head: dict[str, np.ndarray]  # by the published names, as `latent_head_file.from_published` takes them


def read_lightning_checkpoint(path: Path) -> PublishedCheckpoint:
    """Read a `.ckpt` without running any code that is in it.

    Raises:
        UserError: torch is not installed, the file is no such checkpoint, or it holds anything but an adapter, a
            latent head and the base model.
    """
    state = _state_dict(path)
    adapter: dict[str, np.ndarray] = {}
    latent_head: dict[str, np.ndarray] = {}
    unknown, num_base = [], 0
    for name, tensor in state.items():
        if match := _LORA.fullmatch(name):
            adapter[f"{match['module']}.lora_{match['matrix']}.weight"] = _array(tensor)
        elif name.startswith(_HEAD_PREFIX):
            latent_head[name.removeprefix(_HEAD_PREFIX)] = _array(tensor)
        elif name.startswith(_BASE_PREFIX):
            num_base += 1
        else:
            unknown.append(name)
    if unknown:
        raise UserError(f"{path} holds more than a published CoLaR model: {', '.join(sorted(unknown))}")
    if not adapter and not latent_head:
        raise UserError(f"{path} holds neither LoRA matrices nor a latent head: it is no checkpoint of published CoLaR")
    if num_base and not adapter:
        raise UserError(
            f"{path} holds {num_base} tensors of a language model and no LoRA matrices: it was trained whole, and only "
            "adapters and latent heads are imported, whose base is model.base"
        )
    if num_base:
        logger.info("%s: %d tensors of the base model are not used; it comes from model.base", path, num_base)
    return PublishedCheckpoint(adapter, latent_head)


def _state_dict(path: Path) -> dict:
    try:
        import torch
    except ImportError as error:
        raise UserError("reading a published checkpoint needs PyTorch: pip install torch") from error
    if not path.is_file():
        raise UserError(f"there is no file {path}")
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch, zipfile and pickle each have their own
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{path} cannot be read as weights alone, and nothing else is trusted: {reason}") from error
    state = loaded.get("state_dict") if isinstance(loaded, dict) else None
    if not isinstance(state, dict) or not state:
        raise UserError(f"{path} has no state_dict: it is no Lightning checkpoint")
    return state


def _array(tensor) -> np.ndarray:
    return tensor.detach().float().numpy()
