"""The recorded tiny Llama and Qwen2 as Hugging Face folders, and their forward passes in one form (README.md)."""

import json
import shutil
from pathlib import Path

import numpy as np
import safetensors.numpy
from golden.published import recorded

QWEN2 = Path(__file__).parent / "qwen2_tiny"
LAYOUTS = ("classic", "transformers5")
ROW = 2  # the row of seven real tokens whose logits are kept


def base_folder(model: str, layout: str, folder: Path) -> Path:
    """Fill `folder` with the recorded `llama` or `qwen2`, its config.json in one of the `LAYOUTS`."""
    if model == "llama":
        text = str(recorded("weights")["config_json" if layout == "classic" else "config_json_transformers5"])
        arrays = {name: array for name, array in recorded("weights").items() if name.startswith("llama/")}
        arrays = {name.removeprefix("llama/"): array for name, array in arrays.items()}
        safetensors.numpy.save_file(arrays, folder / "model.safetensors")
    else:
        text = (QWEN2 / ("config.json" if layout == "classic" else "config_transformers5.json")).read_text()
        shutil.copyfile(QWEN2 / "model.safetensors", folder / "model.safetensors")
    assert ("rope_parameters" in json.loads(text)) == (layout == "transformers5")
    (folder / "config.json").write_text(text)
    return folder


def forward_of(model: str) -> dict[str, np.ndarray]:
    """The recorded forward pass; what is not kept of the Qwen2's is left out of the Llama's."""
    if model == "qwen2":
        with np.load(QWEN2 / "forward.npz") as arrays:
            return dict(arrays)
    forward = {name.removeprefix("model/"): array for name, array in recorded("forward").items()}
    is_real = forward["attention_mask"][ROW] == 1
    return forward | {
        "logits_row_2": forward["logits"][ROW][is_real],
        "cached_last4_logits_row_2": forward["cached_last4_logits"][ROW],
    }
