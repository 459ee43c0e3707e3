"""Latent reasoning in PyTorch, in one file: no JAX, nothing but torch, transformers and safetensors.

    python colar_torch.py "Eva has 10 apples. Each becomes 3. She gives away 5. She buys 9 more. How many apples now?"

or, from Python:

    reasoner = LatentReasoner.load("exported_folder")
    question = "Eva has 10 apples. Each becomes 3. She gives away 5. She buys 9 more. How many apples now?"
    result = reasoner.answer(question, speed=2)
    print(result.text, result.num_latents)

The folder is what `python -m colar_jax.export` wrote: a Hugging Face model (merged, or base and adapter), its
tokenizer, and the latent head (`latent_head.safetensors`, `latent_head.json`). This file never imports the package it
came from.

Method: "Think Silently, Think Fast", arXiv 2505.16552. Prompt and `###` are read once; then the latent head predicts
the next compressed embedding, which is fed back, until the language head says `###`; then the answer is decoded as
text.
"""

import argparse
import dataclasses
import json
import pathlib

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer


class LatentHead(torch.nn.Module):
    """Linear GELU Linear LayerNorm, then mean and log standard deviation, in units of `embed_std`."""

    def __init__(self, hidden_size: int, inner_size: int):
        super().__init__()
        self.fc = torch.nn.Sequential(
            torch.nn.Linear(hidden_size, inner_size),
            torch.nn.GELU(),
            torch.nn.Linear(inner_size, inner_size),
            torch.nn.LayerNorm(inner_size),
        )
        self.mean = torch.nn.Linear(inner_size, hidden_size)
        self.log_std = torch.nn.Linear(inner_size, hidden_size)

    def forward(self, hidden):
        features = self.fc(hidden)
        return self.mean(features), self.log_std(features)


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a question led to."""

    text: str  # after "Answer:"
    num_latents: int  # #L
    latents: torch.Tensor  # [num_latents, hidden size], in units of `embed_std`
    answer_ids: list[int]


class LatentReasoner:
    """A model that thinks in latents."""

    def __init__(self, model, tokenizer, head: LatentHead, settings: dict):
        self.model, self.tokenizer, self.head, self.settings = model.eval(), tokenizer, head.eval(), settings

    @classmethod
    def load(cls, folder: str | pathlib.Path, dtype=torch.float32) -> "LatentReasoner":
        """Load an exported folder; with an adapter in it, its base model is found by `adapter_config.json` (peft)."""
        folder = pathlib.Path(folder)
        settings = json.loads((folder / "latent_head.json").read_text(encoding="utf-8"))
        if (folder / "adapter_config.json").is_file():
            from peft import PeftModel

            base_name = settings["base"]
            base = AutoModelForCausalLM.from_pretrained(base_name, dtype=dtype)
            if settings["vocab_size"] > base.get_input_embeddings().num_embeddings:
                base.resize_token_embeddings(settings["vocab_size"])
            model = PeftModel.from_pretrained(base, folder)
        else:
            model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
        weights = load_file(folder / "latent_head.safetensors")
        inner_size, hidden_size = weights["fc.0.weight"].shape
        head = LatentHead(hidden_size, inner_size)
        head.load_state_dict(weights)
        return cls(model, AutoTokenizer.from_pretrained(folder), head.to(dtype), settings)

    @torch.inference_mode()
    def answer(
        self,
        question: str,
        *,
        speed: float | str = 2,
        greedy: bool = True,
        temperature: float = 1.0,
        top_p: float = 0.9,
        max_latents: int = 64,
        min_latents: int = 1,
        max_answer_tokens: int = 16,
        generator: torch.Generator | None = None,
    ) -> Answer:
        """Think about one question and answer it.

        Args:
            speed: tokens per latent, as said in the prompt (one that was trained), or "auto".
            greedy: the mean of each latent and the most probable tokens; otherwise sampled.
            temperature, top_p: of what is sampled (the latents' standard deviation, the stop, the answer's tokens).
            max_latents, min_latents, max_answer_tokens: limits.
            generator: the source of random numbers when sampling.
        """
        said = speed if isinstance(speed, str) else f"{speed:g}"
        prompt = self.settings["prompt"].format(question=question, speed=said)
        separator, eos = self.settings["separator_id"], self.settings["eos_id"]
        prompt_ids = [*self.tokenizer(prompt, add_special_tokens=False)["input_ids"], separator]
        embedding = self.model.get_input_embeddings()
        hidden, logits, cache = self._step(embedding(torch.tensor([prompt_ids])), None)
        latents: list[torch.Tensor] = []
        while len(latents) < max_latents:
            if len(latents) >= min_latents and self._stops(logits, separator, greedy, temperature, generator):
                break
            latent = self._latent(hidden, greedy, temperature, generator)
            latents.append(latent)
            fed = (latent * self.settings["embed_std"]).to(embedding.weight.dtype)
            hidden, logits, cache = self._step(fed[None, None], cache)
        ids: list[int] = []
        token = separator
        while len(ids) < max_answer_tokens:
            _, logits, cache = self._step(embedding(torch.tensor([[token]])), cache)
            token = _pick(logits, greedy, temperature, top_p, generator)
            if token == eos:
                break
            ids.append(token)
        text = self.tokenizer.decode(ids, skip_special_tokens=True).removeprefix(self.settings["answer_prefix"])
        stacked = torch.stack(latents) if latents else torch.zeros(0, embedding.weight.shape[1])
        return Answer(text.strip(), len(latents), stacked, ids)

    def _step(self, embeds, cache):
        out = self.model(inputs_embeds=embeds, past_key_values=cache, use_cache=True, output_hidden_states=True)
        return out.hidden_states[-1][0, -1], out.logits[0, -1].float(), out.past_key_values

    def _latent(self, hidden, greedy, temperature, generator):
        mean, log_std = (part.float() for part in self.head(hidden))
        if greedy or self.settings["deterministic"]:
            return mean
        std = log_std.clamp(self.settings["min_log_std"], self.settings["max_log_std"]).exp()
        return mean + temperature * std * torch.randn(mean.shape, generator=generator)

    def _stops(self, logits, separator, greedy, temperature, generator) -> bool:
        if greedy:
            return int(logits.argmax()) == separator
        probability = (logits / temperature).softmax(-1)[separator]
        return bool(torch.rand((), generator=generator) < probability)


def _pick(logits, greedy, temperature, top_p, generator) -> int:
    """The next token: the most probable one, or a draw from the smallest set of tokens that holds `top_p`."""
    if greedy:
        return int(logits.argmax())
    probabilities, order = (logits / temperature).softmax(-1).sort(descending=True)
    probabilities[probabilities.cumsum(-1) - probabilities >= top_p] = 0
    return int(order[torch.multinomial(probabilities, 1, generator=generator)])


def main() -> None:
    """Answer one question on the command line."""
    parser = argparse.ArgumentParser(description="Answer a question by latent reasoning.")
    parser.add_argument("question")
    parser.add_argument("--folder", default=str(pathlib.Path(__file__).parent), help="what colar_jax.export wrote")
    parser.add_argument("--speed", default="2", help="tokens per latent, or auto")
    parser.add_argument("--seed", type=int, default=None, help="sample with this seed; greedy without")
    arguments = parser.parse_args()
    speed = arguments.speed if arguments.speed == "auto" else float(arguments.speed)
    generator = None if arguments.seed is None else torch.Generator().manual_seed(arguments.seed)
    reasoner = LatentReasoner.load(arguments.folder)
    result = reasoner.answer(arguments.question, speed=speed, greedy=generator is None, generator=generator)
    print(f"{result.text}    ({result.num_latents} latents)")


if __name__ == "__main__":
    main()
