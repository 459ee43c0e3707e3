import numpy as np
import pytest

from colar_jax.exchange.lightning import read_lightning_checkpoint

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.slow

LORA_A = "llm.base_model.model.model.layers.1.self_attn.q_proj.lora_A.default.weight"
HEAD = "latent_policy.fc.0.weight"


def saved(tmp_path, state, **others):
    path = tmp_path / "last.ckpt"
    torch.save({"state_dict": state, "epoch": 3, **others}, path)
    return path


def test_names_and_values(tmp_path):
    a, head = torch.randn(8, 64), torch.randn(128, 64, dtype=torch.bfloat16)
    base = {"llm.base_model.model.model.layers.1.self_attn.q_proj.base_layer.weight": torch.zeros(2)}
    read = read_lightning_checkpoint(saved(tmp_path, {LORA_A: a, HEAD: head} | base))
    assert set(read.adapter) == {"base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight"}
    np.testing.assert_array_equal(*map(np.asarray, (next(iter(read.adapter.values())), a)))
    np.testing.assert_array_equal(read.latent_head["fc.0.weight"], head.float().numpy())


class Planted:
    """What a checkpoint must not be able to run."""

    def __reduce__(self):
        return (print, ("planted code ran",))


def test_no_code_in_it_is_run(tmp_path, capsys):
    path = saved(tmp_path, {LORA_A: torch.zeros(2, 2)}, hyper_parameters=Planted())
    with pytest.raises(ValueError, match="cannot be read as weights alone"):
        read_lightning_checkpoint(path)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"optimizer.weight": 1, LORA_A: 2}, "holds more than a published CoLaR model: optimizer.weight$"),
        ({"llm.model.embed_tokens.weight": 1}, "holds neither LoRA matrices nor a latent head"),
        ({"llm.model.embed_tokens.weight": 1, "llm.lm_head.weight": 1, HEAD: 2}, "2 tensors of a .* trained whole"),
        ({}, "has no state_dict"),
    ],
)
def test_other_checkpoints(tmp_path, state, message):
    with pytest.raises(ValueError, match=message):
        read_lightning_checkpoint(saved(tmp_path, {name: torch.zeros(size) for name, size in state.items()}))


def test_no_file_and_no_checkpoint(tmp_path):
    with pytest.raises(ValueError, match="there is no file"):
        read_lightning_checkpoint(tmp_path / "none.ckpt")
    (tmp_path / "text.ckpt").write_text("not a checkpoint")
    with pytest.raises(ValueError, match="cannot be read as weights alone"):
        read_lightning_checkpoint(tmp_path / "text.ckpt")
