"""Which tokenizer an exported folder's PyTorch file reads; without PyTorch, for the model does not matter here."""

import importlib.util
import json
import shutil
import sys
import types
from pathlib import Path

import pytest
from exchange.thinking_alike import torch_file_of

from colar_jax.data.tokenizers import load_tokenizer
from colar_jax.exchange import folder as exchange_folder
from colar_jax.weights.families import FAMILIES

SOURCE = Path(exchange_folder.__file__).with_name(exchange_folder.TORCH_FILE)


class _Model:
    """A language model of which nothing is asked."""

    @classmethod
    def from_pretrained(cls, folder, dtype):
        return cls()

    def eval(self):
        return self

    def get_input_embeddings(self):
        return None

    def forward(self, inputs_embeds, past_key_values):
        pytest.fail("only its tokenizer is asked")


def _stand_in_for_torch(monkeypatch):
    nn = types.SimpleNamespace(Module=object, Sequential=object)
    torch = types.ModuleType("torch")
    torch.nn, torch.Tensor, torch.Generator, torch.float32 = nn, object, object, None
    torch.inference_mode = lambda: lambda function: function
    of_safetensors = types.ModuleType("safetensors.torch")
    of_safetensors.load_file = None
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "safetensors.torch", of_safetensors)


def _file_in(folder, monkeypatch, thinking: dict):
    """The file of a folder that thinks so, whose language model is never asked."""
    shutil.copyfile(SOURCE, folder / SOURCE.name)
    (folder / "thinking.json").write_text(json.dumps(thinking))
    if importlib.util.find_spec("torch") is None:
        _stand_in_for_torch(monkeypatch)
    colar_torch = torch_file_of(folder)
    monkeypatch.setattr(colar_torch, "AutoModelForCausalLM", _Model)
    return colar_torch


def test_latents_that_do_not_see_the_question_are_refused(tmp_path, monkeypatch):
    """This file's latents see it: its answers would be others than the run's."""
    decode = {"latents_see_question": False}
    colar_torch = _file_in(tmp_path, monkeypatch, {"method": "codi", "way": "projection", "decode": decode})
    with pytest.raises(ValueError, match="decode.latents_see_question=False.*colar_jax.load does"):
        colar_torch.LatentReasoner.load(tmp_path)


@pytest.mark.parametrize("model_type", list(FAMILIES))
def test_a_question_is_read_as_in_training_whatever_the_model(model_type, tmp_path, monkeypatch):
    """AutoTokenizer takes a Qwen's tokenizer to be Qwen's own, and splits what it was trained on otherwise."""
    ours = load_tokenizer("embedded:arithmetic")
    ours.save(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    colar_torch = _file_in(tmp_path, monkeypatch, {"method": "cot", "way": "words"})
    theirs = colar_torch.LatentReasoner.load(tmp_path).tokenizer
    text = "Tom has 24 apples. How many apples now?\n###<<24+7=31>>"
    assert theirs(text, add_special_tokens=False)["input_ids"] == ours.encode(text)
    assert theirs.decode(ours.encode(text)) == ours.decode(ours.encode(text))
    assert colar_torch.unread_words("Tom has 24 apples.", theirs) == []
