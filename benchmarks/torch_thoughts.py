"""Training steps of Coconut and CODI in plain PyTorch and transformers (eager): a loop over a DynamicCache.

Padded as published: questions on the left to the longest of the batch, what follows on the right; language-head logits
at every position. The question is encoded once, as ours is. CODI's teacher continues on the question's cache.
"""

import torch
import torch_side
from torch import nn
from torch.nn.functional import cross_entropy, smooth_l1_loss
from transformers import DynamicCache

NUM_LATENTS = 6
ANSWER_POSITION = 0  # the separator is the token before the answer: random ids have no prefix


class ThoughtStep:
    """One optimizer step on a batch of problems; `codi` adds the teacher, the projection and the distillation."""

    def __init__(self, model, *, codi: bool, special: torch_side.SpecialTokens = torch_side.DEFAULT_TOKENS):
        self.model, self.special, self.codi, self.device = model, special, codi, model.device
        hidden = model.config.hidden_size
        layers = nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.LayerNorm(hidden)
        self.projection = (nn.Sequential(*layers) if codi else nn.Identity()).to(self.device)
        parameters = [*model.parameters(), *self.projection.parameters()]
        self.optimizer = torch.optim.AdamW(parameters, 1e-4, weight_decay=0.01)

    def __call__(self, problems: list[torch_side.Problem]) -> float:
        loss = self.loss(problems)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.item()

    def loss(self, problems: list[torch_side.Problem]) -> torch.Tensor:
        separator, pad = self.special.separator, self.special.pad
        question = torch_side.pad_rows([[*p.question_ids, separator] for p in problems], pad, "left", self.device)
        answer = torch_side.pad_rows([[separator, *p.answer_ids] for p in problems], pad, "right", self.device)
        mask, cache = (question != pad).long(), DynamicCache()
        output = self.forward(mask, cache, input_ids=question)
        teacher = self.teacher(problems, question, mask, cache) if self.codi else None
        for _ in range(NUM_LATENTS):
            mask = torch.cat([mask, mask.new_ones(len(problems), 1)], 1)
            output = self.forward(mask, cache, inputs_embeds=self.projection(output.hidden_states[-1][:, -1:]))
        mask = torch.cat([mask, (answer != pad).long()], 1)
        output = self.forward(mask, cache, input_ids=answer)
        loss = self.cross_entropy(output.logits, answer)
        if teacher is None:
            return loss
        teacher_loss, target = teacher
        states = torch.stack(output.hidden_states[1:])[:, :, ANSWER_POSITION]
        distance = smooth_l1_loss(states, target, reduction="none").mean(-1) / target.std(-1)
        return loss + teacher_loss + 20 * distance.mean()

    def teacher(self, problems, question, mask, cache: DynamicCache):
        """The chain of thought's loss, and its detached states before the answer."""
        separator, pad = self.special.separator, self.special.pad
        chains = [[*p.step_ids, separator, *p.answer_ids] for p in problems]
        chains = torch_side.pad_rows(chains, pad, "right", self.device)
        width = question.shape[1]
        own = DynamicCache()
        for layer, (keys, values) in enumerate((part.keys, part.values) for part in cache.layers):
            own.update(keys, values, layer)
        mask = torch.cat([mask, (chains != pad).long()], 1)
        output = self.forward(mask, own, input_ids=chains)
        assert cache.get_seq_length() == width
        places = torch.tensor([len(p.step_ids) for p in problems], device=self.device)
        rows = torch.arange(len(problems), device=self.device)
        states = torch.stack(output.hidden_states[1:])[:, rows, places]
        return self.cross_entropy(output.logits, chains), states.detach()

    def forward(self, mask, cache: DynamicCache, **inputs):
        width = next(iter(inputs.values())).shape[1]
        position_ids = torch_side.positions(mask)[:, -width:]
        options = dict(past_key_values=cache, use_cache=True, output_hidden_states=True)
        return self.model(attention_mask=mask, position_ids=position_ids, **inputs, **options)

    def cross_entropy(self, logits, ids) -> torch.Tensor:
        """The mean over all tokens but the first and the padding."""
        labels = ids.masked_fill(ids == self.special.pad, -100)
        return cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
