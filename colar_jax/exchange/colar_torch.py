"""Latent reasoning in PyTorch, in one file: no JAX, nothing but torch, transformers and safetensors.

    python colar_torch.py "Eva has 10 apples. Each becomes 2. She gives away 6. She buys 3 more. How many apples now?"

or, from Python:

    reasoner = LatentReasoner.load("exported_folder")
    question = "Eva has 10 apples. Each becomes 2. She gives away 6. She buys 3 more. How many apples now?"
    result = reasoner.answer(question, speed=2)
    print(result.text, result.num_latents)

The folder is what `python -m colar_jax.export` wrote: a Hugging Face model (merged, or base and adapter), its
tokenizer, how it thinks (`thinking.json`), and what makes its latents: the latent head (`latent_head.safetensors`,
`latent_head.json`) or the projection (`projection.safetensors`, `projection.json`), where it has one. This file never
imports the package it came from.

The prompt and `###` are read once. Then the model thinks, in its way: CoLaR ("Think Silently, Think Fast", arXiv
2505.16552) predicts the next compressed embedding with the latent head, and stops where the language head says `###`;
CODI and Coconut feed the last hidden state, a fixed number of times; PCCoT and KaVa make all latents at once, in a few
passes; a chain of thought is in words. Then the answer is decoded as text.
"""

import argparse
import dataclasses
import inspect
import json
import math
import pathlib
import re
import sys

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast


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


def projection(hidden_size: int, inner_size: int, has_norm: bool) -> torch.nn.Sequential:
    """CODI's network from a hidden state to an input, under the names of its own code."""
    layers = torch.nn.Sequential(
        torch.nn.Identity(),  # there a dropout
        torch.nn.Linear(hidden_size, inner_size),
        torch.nn.GELU(),
        torch.nn.Linear(inner_size, hidden_size),
    )
    if has_norm:
        layers.add_module("ln", torch.nn.LayerNorm(hidden_size))
    return layers


class SpeedEmbedding(torch.nn.Sequential):
    """What is added to the `###` that opens the reasoning, for a speed that is told as a number, or for "auto".

    Where it counts tokens, a latent's position is that of its group's last token in the chain in words; the opening
    and every latent are told how many tokens the next one holds.
    """

    def __init__(self, hidden_size: int, inner_size: int, num_waves: int, counts_tokens: bool = False):
        first, second = torch.nn.Linear(10 + 2 * num_waves, inner_size), torch.nn.Linear(inner_size, hidden_size)
        super().__init__(first, torch.nn.GELU(), second)
        self.auto = torch.nn.Parameter(torch.zeros(hidden_size))
        self.num_waves, self.counts_tokens = num_waves, counts_tokens

    def tokens_before(self, num_latents: int, speed: float) -> int:
        """How many tokens the first latents hold; one each at "auto"."""
        if speed == "auto":
            return num_latents
        return math.floor(num_latents * float(speed) + 0.25 + 1e-3) if num_latents else 0

    def told(self, num_latents: int, speed: float | str):
        """What is added after so many latents, 0: to the opening `###`."""
        if self.counts_tokens and speed != "auto":
            return self(self.tokens_before(num_latents + 1, speed) - self.tokens_before(num_latents, speed))
        return self(speed) if num_latents == 0 else 0.0

    def forward(self, speed: float | str):
        if speed == "auto":
            return self.auto
        speeds, phases = torch.tensor([max(float(speed), 1.0)]), torch.tensor([0.25])
        turns = 2 * torch.pi * torch.cat([speeds, 2 * speeds, phases, speeds + phases])
        angles = torch.cat([torch.arange(1, self.num_waves + 1) * speeds.log(), turns])
        return super().forward(torch.cat([speeds.log(), phases, angles.sin(), angles.cos()]))


def thinking_speed(speed: float | str) -> float | str:
    """A speed as a number, or "auto"; a ValueError says what is neither.

    A prompt says six digits of it: one that has more would be told as another.
    """
    if speed == "auto":
        return speed
    try:
        number = math.nan if isinstance(speed, bool) else float(speed)
    except (TypeError, ValueError):
        number = math.nan
    if not 1 <= number < math.inf or float(f"{number:g}") != number:
        raise ValueError(
            f"speed={speed} is no thinking speed: a number of at least 1 (tokens per latent) with at most six digits, "
            "or auto"
        )
    return number


def unread_words(question: str, tokenizer) -> list[str]:
    """The words and numbers that are not read as written: unknown, or a number cut up by a tokenizer of whole words."""
    has_whole_words = tokenizer.is_fast and type(tokenizer.backend_tokenizer.model).__name__ == "WordLevel"
    words = re.findall(r"[^\W\d_]+|\d+|[^\w\s]", question)
    ids_of = {word: tokenizer(word, add_special_tokens=False)["input_ids"] for word in words}
    is_cut = {word: has_whole_words and word.isdigit() and len(ids) > 1 for word, ids in ids_of.items()}
    return [word for word, ids in ids_of.items() if not ids or tokenizer.unk_token_id in ids or is_cut[word]]


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a question led to."""

    text: str  # after "Answer:"
    num_latents: int  # #L; of a chain of thought in words, its tokens
    latents: torch.Tensor  # [num_latents, hidden size], those of the latent head in units of `embed_std`; none of words
    answer_ids: list[int]
    reasoning: str = ""  # a chain of thought in words


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How to choose where there is a choice: the mean of each latent and the most probable tokens, or draws."""

    greedy: bool = True
    temperature: float | None = None  # of latents, the stop and the tokens alike; None: of each, that of the run
    top_p: float | None = None  # of the tokens; None: that of the run
    generator: torch.Generator | None = None  # the source of random numbers


GREEDY = Sampling()


@dataclasses.dataclass(frozen=True)
class Draws:
    """How everything is drawn: the run's settings (`decode` of `thinking.json`), and what a `Sampling` puts in place.

    Folders of earlier versions have no settings; then these defaults hold.
    """

    latent_temperature: float = 1.0  # scales the latents' standard deviation
    min_latent_std: float = 0.0  # its floor
    latent_noise: str = "two_sided"  # one_sided: the size of a normal draw in each dimension
    stop_temperature: float = 1.0  # of the decision to end thinking, and of words in a chain of thought
    stop_odds_temperature: float = 1.0  # of the odds of ending latent thinking
    answer_temperature: float = 1.0
    top_p: float = 0.9
    greedy: bool = True
    greedy_stop: str = "argmax"  # or half
    generator: torch.Generator | None = None

    @classmethod
    def of(cls, settings: dict, sampling: Sampling) -> "Draws":
        """Those of a folder's settings, and of how one question is asked."""
        names = {field.name for field in dataclasses.fields(cls)}
        given = {name: value for name, value in (settings.get("decode") or {}).items() if name in names}
        if sampling.temperature is not None:
            of_all = ("latent_temperature", "stop_temperature", "answer_temperature")
            given |= dict.fromkeys(of_all, sampling.temperature)
        if sampling.top_p is not None:
            given["top_p"] = sampling.top_p
        return cls(**given | {"greedy": sampling.greedy, "generator": sampling.generator})

    def token(self, logits, temperature: float) -> int:
        """The next token: the most probable one, or a draw from the smallest set of tokens that holds `top_p`."""
        if self.greedy:
            return int(logits.argmax())
        probabilities, order = (logits / temperature).softmax(-1).sort(descending=True)
        probabilities[probabilities.cumsum(-1) - probabilities >= self.top_p] = 0
        return int(order[torch.multinomial(probabilities, 1, generator=self.generator)])

    def stop(self, log_odds) -> bool:
        """Whether thinking ends, by a draw."""
        probability = (log_odds / self.stop_odds_temperature).sigmoid()
        return bool(torch.rand((), generator=self.generator) < probability)

    def latent(self, mean, std):
        """A latent from its Gaussian."""
        noise = torch.randn(mean.shape, generator=self.generator)
        noise = noise.abs() if self.latent_noise == "one_sided" else noise
        return mean + self.latent_temperature * std.clamp(min=self.min_latent_std) * noise


class LatentReasoner:
    """A model that thinks before it answers. `maker` makes its latents: a latent head, a projection, or None."""

    def __init__(self, model, tokenizer, maker: torch.nn.Module | None, settings: dict, speed_embedding=None):
        self.model, self.tokenizer, self.settings = model.eval(), tokenizer, settings
        self._speed_embedding = speed_embedding
        self.maker = None if maker is None else maker.eval()
        self._embedding = model.get_input_embeddings()
        self._language_model = model.get_base_model() if hasattr(model, "peft_config") else model
        # transformers calls it `cache` since 5.24, and takes only that from 5.40 on.
        parameters = inspect.signature(self._language_model.forward).parameters
        self._cache_name = "cache" if "cache" in parameters else "past_key_values"

    @classmethod
    def load(cls, folder: str | pathlib.Path, dtype=torch.float32) -> "LatentReasoner":
        """Load an exported folder; with an adapter in it, its base model is found by `adapter_config.json` (peft)."""
        folder = pathlib.Path(folder)
        settings = json.loads((folder / "thinking.json").read_text(encoding="utf-8"))
        if settings["method"] == "own_speed":
            raise ValueError(f"{folder}: this model chooses its own speed, which this file does not: export its source")
        if not settings.get("decode", {}).get("latents_see_question", True):
            raise ValueError(
                f"{folder}: its latents are made without the question (decode.latents_see_question=False), which this "
                "file does not do: colar_jax.load does"
            )
        if settings["way"] == "own":
            raise ValueError(f"{folder}: its method makes latents in a way of its own, which this file does not know")
        if (folder / "adapter_config.json").is_file():
            from peft import PeftModel

            adapter = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
            of_base = pathlib.Path(adapter["base_model_name_or_path"])
            if of_base.suffix == ".gguf":  # transformers wants its folder, and then its name
                base = AutoModelForCausalLM.from_pretrained(of_base.parent, gguf_file=of_base.name, dtype=dtype)
            else:
                base = AutoModelForCausalLM.from_pretrained(str(of_base), revision=adapter.get("revision"), dtype=dtype)
            model = PeftModel.from_pretrained(base, folder)
        else:
            model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
        maker = None
        if settings["way"] == "rescaled_states":
            settings |= json.loads((folder / "latent_head.json").read_text(encoding="utf-8"))
        name = "projection" if settings["way"] in ("swept", "chosen_stop") else settings["way"]
        if name in ("latent_head", "projection") and (folder / f"{name}.json").is_file():
            settings |= json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
            weights = load_file(folder / f"{name}.safetensors")
            if name == "latent_head":
                maker = LatentHead(weights["mean.bias"].shape[0], settings["intermediate_size"])
            else:
                maker = projection(
                    weights["3.bias"].shape[0], settings["intermediate_size"], has_norm=settings["layer_norm"]
                )
            maker.load_state_dict(weights)
            maker = maker.to(dtype)
        if settings["way"] == "chosen_stop":
            rows = load_file(folder / "stop_choice.safetensors")
            settings["stop_row"] = rows["stop"] - rows["continue"]
        speed_embedding = None
        if (settings.get("method_settings") or {}).get("conditioning", "text") != "text":
            sizes = json.loads((folder / "speed_embedding.json").read_text(encoding="utf-8"))
            weights = load_file(folder / "speed_embedding.safetensors")
            speed_embedding = SpeedEmbedding(weights["auto"].shape[0], **sizes)
            speed_embedding.load_state_dict(weights)
        # tokenizer.json as it is. AutoTokenizer would put Qwen2's splitting over any tokenizer that a Qwen2 was given.
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
        return cls(model, tokenizer, maker, settings, speed_embedding)

    @torch.inference_mode()
    def answer(
        self,
        question: str,
        *,
        speed: float | str | None = None,
        sampling: Sampling = GREEDY,
        max_latents: int | None = None,
        min_latents: int | None = None,
        max_answer_tokens: int | None = None,
    ) -> Answer:
        """Think about one question and answer it.

        Args:
            speed: tokens per latent, as said in the prompt (one that was trained), or "auto"; of models that have one.
            sampling: greedy, or `Sampling(greedy=False, ...)`, at the run's temperatures unless it says others.
            max_latents, min_latents, max_answer_tokens: limits, by default those of the run; latents that are fed as
                hidden states are as many as were trained.

        Raises:
            ValueError: the speed is none, or there is none to choose.
        """
        if unread := unread_words(question, self.tokenizer):
            print(f"warning: the tokenizer cannot read {', '.join(map(repr, unread))} as written", file=sys.stderr)
        settings, draws = self.settings, Draws.of(self.settings, sampling)
        speed = self.checked_speed(speed)
        prompt = settings["prompt"].format(question=question, speed=speed if isinstance(speed, str) else f"{speed:g}")
        separator = settings["separator_id"]
        prompt_ids = [*self.tokenizer(prompt, add_special_tokens=False)["input_ids"], separator]
        embeds = self._embedding(torch.tensor([prompt_ids]))
        if self._speed_embedding is not None:
            embeds[0, -1] += self._speed_embedding.told(0, speed).to(embeds.dtype)
        state = self._step(embeds, None)
        most = settings["max_thoughts"] if max_latents is None else max_latents
        least = settings["min_thoughts"] if min_latents is None else min_latents
        if settings["way"] in ("hidden_states", "rescaled_states", "projection"):
            most = least = settings["max_thoughts"]
        thoughts: list = []
        if settings["way"] == "swept":
            thoughts, state = self._swept(state)
            most = 0
        while len(thoughts) < most:
            thought, embed, stops = self._think(state, draws)
            if stops and len(thoughts) >= least:
                break
            thoughts.append(thought)
            position = self._place(len(prompt_ids), len(thoughts), speed)
            if position is not None:
                embed = embed + self._speed_embedding.told(len(thoughts), speed)
                position -= 1
            state = self._step(embed.to(self._embedding.weight.dtype)[None, None], state[2], position)
        limit = settings["max_answer_tokens"] if max_answer_tokens is None else max_answer_tokens
        ids: list[int] = []
        token = separator
        after = self._place(len(prompt_ids), len(thoughts), speed)
        while len(ids) < limit:
            position = None if after is None else after + len(ids)
            state = self._step(self._embedding(torch.tensor([[token]])), state[2], position)
            token = draws.token(state[1], draws.answer_temperature)
            if token == settings["eos_id"]:
                break
            ids.append(token)
        return self._answer(thoughts, ids)

    def checked_speed(self, asked: float | str | None) -> float | str:
        """The speed to think at; None is the first that was trained. ValueError: it is none, or none is to choose."""
        settings = self.settings
        if asked is None:
            return thinking_speed(settings["speeds"][0])
        speed = thinking_speed(asked)
        if not settings.get("has_speed", True):  # folders of earlier versions do not say
            stage = settings.get("stage") or settings["method"]
            raise ValueError(f"speed={asked}: stage {stage} has none to choose; leave it out")
        counts_tokens = self._speed_embedding is not None and self._speed_embedding.counts_tokens
        if counts_tokens and speed != "auto" and round(speed, 2) != speed:
            raise ValueError(
                f"speed={asked}: where latents stand on the chain's timeline (timeline='tokens'), speeds have at most "
                "2 decimals"
            )
        return speed

    def _answer(self, thoughts: list, ids: list[int]) -> Answer:
        text = self.tokenizer.decode(ids, skip_special_tokens=True).removeprefix(self.settings["answer_prefix"])
        in_words = self.settings["way"] == "words"
        reasoning = self.tokenizer.decode(thoughts, skip_special_tokens=True) if in_words else ""
        latents = [] if in_words else thoughts
        stacked = torch.stack(latents) if latents else torch.zeros(0, self._embedding.weight.shape[1])
        return Answer(text.strip(), len(thoughts), stacked, ids, reasoning)

    def _place(self, prompt_length: int, num_latents: int, speed: float | str) -> int | None:
        """The position after so many latents; None: positions are numbered one by one."""
        embedding = self._speed_embedding
        counts = embedding is not None and embedding.counts_tokens
        return prompt_length + embedding.tokens_before(num_latents, speed) if counts else None

    def _run(self, embeds, cache, position: int | None = None):
        """The hidden states of all positions, the logits after the last, and the cache."""
        past = {self._cache_name: cache}
        if position is not None:
            past["position_ids"] = torch.tensor([[position]])
        out = self._language_model(inputs_embeds=embeds, use_cache=True, output_hidden_states=True, **past)
        return out.hidden_states[-1][0], out.logits[0, -1].float(), getattr(out, self._cache_name)

    def _step(self, embeds, cache, position: int | None = None):
        """The last hidden state, the logits after it, and the cache."""
        hidden, logits, cache = self._run(embeds, cache, position)
        return hidden[-1], logits, cache

    def _swept(self, state):
        """All latents, made at once, and the state after them: each pass makes them of what the one before had."""
        (first, _, cache), count = state, self.settings["max_thoughts"]
        fed = self._embedding(torch.full((count,), self.settings["separator_id"]))
        hidden, logits, cache = self._run(fed[None], cache)
        for _ in range(self.settings["method_settings"]["num_sweeps"]):
            before = torch.cat([first[None], hidden[:-1]])
            fed = (before if self.maker is None else self.maker(before)).to(self._embedding.weight.dtype)
            cache.crop(-count)
            hidden, logits, cache = self._run(fed[None], cache)
        return list(fed.float()), (hidden[-1], logits, cache)

    def _think(self, state, draws: Draws):
        """The next thought, what is fed of it, and whether thinking is over instead."""
        hidden, logits, _ = state
        way, separator = self.settings["way"], self.settings["separator_id"]
        if way == "words":
            token = draws.token(logits, draws.stop_temperature)
            return token, self._embedding(torch.tensor(token)), token == separator
        if way == "superposition":
            fed = (
                logits.softmax(-1) @ self._embedding.weight.float() * float(getattr(self._embedding, "embed_scale", 1))
            )
            return fed, fed, int(logits.argmax()) == separator
        if way == "khot":
            scores, ids = logits.topk(min(self.settings["method_settings"]["top_k"], len(logits)))
            scale = float(getattr(self._embedding, "embed_scale", 1))
            fed = scores.softmax(-1) @ self._embedding.weight[ids].float() * scale
            return fed, fed, int(logits.argmax()) == separator
        if way == "chosen_stop":
            fed = (hidden if self.maker is None else self.maker(hidden)).float()
            odds = hidden.float() @ self.settings["stop_row"]
            return fed, fed, bool(odds > 0) if draws.greedy else draws.stop(odds / draws.stop_temperature)
        if way == "rescaled_states":
            fed = hidden.float() * (self.settings["embed_std"] / hidden.float().square().mean().sqrt())
            return fed, fed, True
        if way != "latent_head":
            fed = hidden if self.maker is None else self.maker(hidden)
            return fed.float(), fed, True
        latent = self._latent(hidden, draws)
        if not draws.greedy:
            stops = draws.stop(_log_odds(logits / draws.stop_temperature, separator))
        elif draws.greedy_stop == "half":
            stops = bool(logits.softmax(-1)[separator] >= 0.5)
        else:
            stops = int(logits.argmax()) == separator
        return latent, latent * self.settings["embed_std"], stops

    def _latent(self, hidden, draws: Draws):
        mean, log_std = (part.float() for part in self.maker(hidden))
        if draws.greedy:
            return mean
        std = log_std.clamp(self.settings["min_log_std"], self.settings["max_log_std"]).exp()
        return draws.latent(mean, torch.zeros_like(std) if self.settings["deterministic"] else std)


def _log_odds(logits, token: int):
    """Of one token against all others together."""
    others = logits.clone()
    others[token] = -math.inf
    return logits[token] - others.logsumexp(-1)


def main() -> None:
    """Answer one question on the command line."""
    parser = argparse.ArgumentParser(description="Answer a question by latent reasoning.")
    parser.add_argument("question")
    parser.add_argument("--folder", default=str(pathlib.Path(__file__).parent), help="what colar_jax.export wrote")
    parser.add_argument(
        "--speed", type=thinking_speed, help="tokens per latent, or auto; default: the first that was trained"
    )
    parser.add_argument("--seed", type=int, default=None, help="sample with this seed; greedy without")
    arguments = parser.parse_args()
    seed = arguments.seed
    sampling = GREEDY if seed is None else Sampling(greedy=False, generator=torch.Generator().manual_seed(seed))
    try:
        reasoner = LatentReasoner.load(arguments.folder)
        reasoner.checked_speed(arguments.speed)
    except ValueError as error:
        parser.error(str(error))
    result = reasoner.answer(arguments.question, speed=arguments.speed, sampling=sampling)
    if result.reasoning:
        print(result.reasoning)
    thoughts = "tokens of reasoning" if result.reasoning else "latents"
    print(f"{result.text}    ({result.num_latents} {thoughts})")


if __name__ == "__main__":
    main()
