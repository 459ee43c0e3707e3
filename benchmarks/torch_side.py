"""CoLaR in plain PyTorch and transformers (eager attention), padded and looped as published: the opponent in speed.

It does the published work in the published order: one speed for a batch, padding to the longest of each part, all-pad
groups included, language-head logits at every position; at test time a full language head at every latent, a loop that
ends when the slowest row does, and a second prefill of everything for the answer. The caller sets the number of threads
and the seed, and moves the models: everything is on the device of the model's parameters. Needs torch and transformers,
which colar_jax itself does not.

    python benchmarks/torch_side.py        a self-check on small sizes, with timings
"""

import time
from typing import NamedTuple

import torch
from torch import nn
from torch.distributions import Normal
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

IGNORED = -100


class Problem(NamedTuple):
    """Token ids of one problem; the separator around the steps is added here, the end token of the answer is not."""

    question_ids: list[int]
    step_ids: list[int]
    answer_ids: list[int]


class SpecialTokens(NamedTuple):
    """Ids that have a role in the layout."""

    separator: int = 0
    end: int = 1
    pad: int = 2


DEFAULT_TOKENS = SpecialTokens()


class LatentPolicy(nn.Module):
    """Gaussian over the next compressed embedding, in units of the standard deviation of the token embeddings."""

    def __init__(self, hidden: int, intermediate: int):
        super().__init__()
        first, second = nn.Linear(hidden, intermediate), nn.Linear(intermediate, intermediate)
        self.fc = nn.Sequential(first, nn.GELU(), second, nn.LayerNorm(intermediate))
        self.mean = nn.Linear(intermediate, hidden)
        self.log_std = nn.Linear(intermediate, hidden)

    def forward(self, hidden: torch.Tensor, temperature: float = 1.0) -> Normal:
        features = self.fc(hidden)
        return Normal(self.mean(features), self.log_std(features).exp() * temperature)


def build_model(
    hidden: int = 384,
    layers: int = 6,
    intermediate: int = 1024,
    vocab: int = 4096,
    heads: int = 6,
    kv_heads: int = 6,
    latent_intermediate: int = 3072,
    special: SpecialTokens = DEFAULT_TOKENS,
    attention: str = "eager",
) -> tuple[LlamaForCausalLM, LatentPolicy]:
    """A randomly initialised Llama with tied embeddings, and its latent head; the defaults have 25.2M parameters.

    12.2M of them are the model's and 13.0M the latent head's.
    """
    config = LlamaConfig(
        vocab_size=vocab,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=special.end,
        pad_token_id=special.pad,
        attn_implementation=attention,
    )
    return LlamaForCausalLM(config), LatentPolicy(hidden, latent_intermediate)


def parameter_count(*modules: nn.Module) -> int:
    """Number of parameters, a tied one counted once."""
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def embedding_std(model: LlamaForCausalLM) -> float:
    """The scale between embeddings and the latent head's predictions."""
    return model.get_input_embeddings().weight.std().item()


def pad_rows(rows: list[list[int]], pad: int, side: str, device: torch.device) -> torch.Tensor:
    """Ids [B, longest] with the padding on the left or on the right."""
    width = max(map(len, rows))
    filled = [[pad] * (width - len(row)) for row in rows]
    padded = [f + row if side == "left" else row + f for row, f in zip(rows, filled, strict=True)]
    return torch.tensor(padded, device=device)


def pad_groups(rows: list[list[int]], speed: int, pad: int, device: torch.device) -> torch.Tensor:
    """Step ids [B, slots * speed] with the separator as the last token of its group, as published.

    All rows grow by one count on top of left padding to the longest. What a row does not need on the left goes to its
    right: exactly one group of right padding is moved left, a longer one stays and leaves a last slot of pads only.
    """
    longest = max(map(len, rows))
    grow = 2 * speed - 1 - (longest + speed - 1) % speed
    padded = []
    for row in rows:
        left = (speed - 1 - (longest - len(row))) % speed
        left = grow if grow - left == speed else left
        padded.append([pad] * (longest - len(row) + left) + row + [pad] * (grow - left))
    return torch.tensor(padded, device=device)


def positions(mask: torch.Tensor) -> torch.Tensor:
    """Position ids that count real tokens only."""
    return (mask.cumsum(1) - 1).clamp(min=0)


class SftStep:
    """One published training step: cross-entropy + squared error of a sampled latent, backward, AdamW."""

    def __init__(
        self,
        model: LlamaForCausalLM,
        policy: LatentPolicy,
        lr: float = 1e-4,
        weight_decay: float = 0.01,
        special: SpecialTokens = DEFAULT_TOKENS,
    ):
        self.model, self.policy, self.special, self.device = model, policy, special, model.device
        self.embedding_std = embedding_std(model)
        self.optimizer = torch.optim.AdamW([*model.parameters(), *policy.parameters()], lr, weight_decay=weight_decay)

    def __call__(self, problems: list[Problem], speed: int) -> float:
        """Trains on one batch, every problem at the same `speed`; the loss before the update."""
        loss = self.loss(problems, speed)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.item()

    def loss(self, problems: list[Problem], speed: int) -> torch.Tensor:
        """Mean over all supervised tokens of the cross-entropy, plus mean over real step slots of the latent error."""
        pad, separator = self.special.pad, self.special.separator
        question = pad_rows([p.question_ids for p in problems], pad, "left", self.device)
        steps, steps_mask, step_labels = self.compress([[separator, *p.step_ids] for p in problems], speed)
        answer = pad_rows([[separator, *p.answer_ids] for p in problems], pad, "right", self.device)
        embed = self.model.get_input_embeddings()

        embeds = torch.cat([embed(question), steps, embed(answer)], 1)
        mask = torch.cat([(question != pad).long(), steps_mask, (answer != pad).long()], 1)
        labels = torch.cat([torch.full_like(question, IGNORED), step_labels, answer], 1).masked_fill(mask == 0, IGNORED)
        inputs = {"inputs_embeds": embeds, "attention_mask": mask, "position_ids": positions(mask)}
        output = self.model(**inputs, labels=labels, output_hidden_states=True, use_cache=False)
        first, last = question.shape[1], question.shape[1] + steps.shape[1]
        predicted = self.policy(output.hidden_states[-1][:, first:last]).rsample()
        target = embeds[:, first + 1 : last + 1].detach() / self.embedding_std
        errors = (predicted - target).square().mean(-1)
        return output.loss + (errors * steps_mask).sum() / steps_mask.sum()

    def compress(self, rows: list[list[int]], speed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Slot embeddings [B, slots, D], slot mask and one label per slot, drawn from the tokens of the slot."""
        pad, embed = self.special.pad, self.model.get_input_embeddings()
        if speed == 1:
            ids = pad_rows(rows, pad, "left", self.device)
            return embed(ids), (ids != pad).long(), ids
        ids = pad_groups(rows, speed, pad, self.device).unflatten(1, (-1, speed))
        mask = (ids != pad).float()
        count = mask.sum(2, keepdim=True)
        embeds = ((embed(ids) * mask[..., None]).sum(2) / (count.sqrt() + 1e-5)).to(embed.weight.dtype)
        drawn = torch.multinomial((mask + 1e-5).flatten(0, 1), 1).view(*ids.shape[:2], 1)
        return embeds, (count[..., 0] > 0).long(), ids.gather(2, drawn)[..., 0]


class Generation(NamedTuple):
    """Latents [B, n, D] as they were fed back, their mask [B, n], and the answers' token ids [B, <= answer_tokens]."""

    latents: torch.Tensor
    latent_mask: torch.Tensor
    answer_ids: torch.Tensor


class LatentGenerator:
    """Published decoding: latents one at a time on a growing cache, then the answer from a prefill of everything.

    `fixed_work=True` ignores the stop decisions (they are still drawn) and forbids an early end of the answer, so that
    exactly `max_latents` and `answer_tokens` are run. An `answer_temperature` of 0 takes the likeliest token.
    """

    def __init__(
        self,
        model: LlamaForCausalLM,
        policy: LatentPolicy,
        max_latents: int = 64,
        answer_tokens: int = 16,
        latent_temperature: float = 1.0,
        stop_temperature: float = 1.0,
        answer_temperature: float = 1.0,
        top_p: float = 0.9,
        fixed_work: bool = False,
        special: SpecialTokens = DEFAULT_TOKENS,
    ):
        self.model, self.policy, self.special, self.device = model, policy, special, model.device
        self.max_latents, self.fixed_work = max_latents, fixed_work
        self.latent_temperature, self.stop_temperature = latent_temperature, stop_temperature
        self.embedding_std = embedding_std(model)
        sampling = {"do_sample": True, "temperature": answer_temperature, "top_p": top_p, "top_k": 0}
        self.answer_options = {
            "max_new_tokens": answer_tokens,
            "min_new_tokens": answer_tokens if fixed_work else None,
            "eos_token_id": special.end,
            "pad_token_id": special.pad,
            **(sampling if answer_temperature > 0 else {"do_sample": False}),
        }

    @torch.no_grad()
    def __call__(self, prompts: list[list[int]]) -> Generation:
        """Latents and answers for questions (speed said in the text, without the separator that opens the steps)."""
        prompts = [[*prompt, self.special.separator] for prompt in prompts]
        ids = pad_rows(prompts, self.special.pad, "left", self.device)
        embed = self.model.get_input_embeddings()
        embeds, mask = embed(ids), (ids != self.special.pad).long()
        latents, latent_mask = self.think(embeds, mask)
        separator = ids.new_full((len(prompts), 1), self.special.separator)
        embeds = torch.cat([embeds, latents, embed(separator)], 1)
        mask = torch.cat([mask, latent_mask, torch.ones_like(separator)], 1)
        answer_ids = self.model.generate(inputs_embeds=embeds, attention_mask=mask, **self.answer_options)
        return Generation(latents, latent_mask, answer_ids)

    def think(self, embeds: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Samples latents until every row has drawn the separator once; masks those that come after a row's own."""
        cache, latents, question_length = DynamicCache(), [], mask.shape[1]
        running = torch.ones_like(mask[:, :1], dtype=torch.bool)
        output = self.forward_cached(embeds, mask, positions(mask), cache)
        while len(latents) < self.max_latents:
            gaussian = self.policy(output.hidden_states[-1][:, -1:], self.latent_temperature)
            latents.append(gaussian.rsample() * self.embedding_std)
            mask = torch.cat([mask, running.long()], 1)
            output = self.forward_cached(latents[-1], mask, positions(mask)[:, -1:], cache)
            drawn = torch.multinomial((output.logits[:, -1] / self.stop_temperature).softmax(-1), 1)
            if not self.fixed_work:
                running = running & (drawn != self.special.separator)
                if not running.any():
                    break
        return torch.cat(latents, 1), mask[:, question_length:]

    def forward_cached(self, embeds, mask, position_ids, cache: DynamicCache):
        inputs = {"inputs_embeds": embeds, "attention_mask": mask, "position_ids": position_ids}
        return self.model(**inputs, past_key_values=cache, output_hidden_states=True, use_cache=True)


def random_problems(count: int, vocab: int) -> list[Problem]:
    """Problems of random ids with lengths like those of grade-school sets."""

    def ids(low: int, high: int) -> list[int]:
        return torch.randint(len(DEFAULT_TOKENS), vocab, (int(torch.randint(low, high, ())),)).tolist()

    return [Problem(ids(30, 70), ids(8, 40), [*ids(2, 5), DEFAULT_TOKENS.end]) for _ in range(count)]


def main() -> None:
    torch.manual_seed(0)
    vocab = 512
    sizes = {"hidden": 64, "layers": 2, "intermediate": 128, "heads": 4, "kv_heads": 2, "latent_intermediate": 128}
    model, policy = build_model(vocab=vocab, **sizes)
    problems = random_problems(8, vocab)
    step, generator = SftStep(model, policy), LatentGenerator(model, policy, fixed_work=True)

    def timed(name: str, function, *arguments):
        function(*arguments)
        start = time.perf_counter()
        result = function(*arguments)
        print(f"{name}: {(time.perf_counter() - start) * 1e3:.1f} ms")
        return result

    for speed in (1, 2, 5):
        loss = timed(f"SFT step, batch 8, speed {speed}", step, problems, speed)
        assert 0 < loss < 100, loss
    generation = timed("64 latents + 16 tokens, batch 8", generator, [p.question_ids for p in problems])
    assert generation.latents.shape == (8, 64, 64)
    assert generation.answer_ids.shape == (8, 16)
    print(f"{torch.get_num_threads()} threads; default model: {parameter_count(*build_model()):,} parameters")


if __name__ == "__main__":
    main()
