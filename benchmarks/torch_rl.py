"""One iteration of GRPO over latent chains in plain PyTorch and transformers, as published: the opponent in speed.

Every member of a group is a row of its own, with its question prefilled again; the answer prefills everything again
(`torch_side.LatentGenerator`); what the rollouts did is scored in a forward pass of its own; the update runs each
minibatch's rows in full, padded, with language-head logits at every position.
"""

from typing import NamedTuple

import torch
import torch_side
from torch.nn.functional import log_softmax


class Rollouts(NamedTuple):
    """Every question's prompt, repeated, what was generated for it, and the log-probabilities (latents, answers)."""

    prompts: list[list[int]]
    generation: torch_side.Generation
    log_probs: tuple[torch.Tensor, torch.Tensor]


class GrpoIteration:
    """Rollouts of all questions, then one clipped-policy-gradient step a minibatch.

    Args:
        num_generations: rollouts of a question.
        minibatch_size: rollouts in one optimizer step.
    """

    def __init__(self, model, policy, num_generations: int, minibatch_size: int, learning_rate: float = 1e-6):
        self.model, self.policy, self.device = model, policy, model.device
        self.num_generations, self.minibatch_size = num_generations, minibatch_size
        self.generate = torch_side.LatentGenerator(model, policy, fixed_work=True)
        self.parameters = [*model.parameters(), *policy.parameters()]
        self.optimizer = torch.optim.AdamW(self.parameters, learning_rate, weight_decay=0.01)

    def rollout(self, questions: list[list[int]]) -> Rollouts:
        """What the policy did for every question, with its log-probability."""
        prompts = [question for question in questions for _ in range(self.num_generations)]
        generation = self.generate(prompts)
        with torch.no_grad():
            log_probs = self.log_probs(prompts, generation, torch.arange(len(prompts), device=self.device))
        return Rollouts(prompts, generation, log_probs)

    def __call__(self, questions: list[list[int]]) -> int:
        """One iteration; the number of its rollouts."""
        prompts, generation, old = self.rollout(questions)
        rewards = (torch.arange(len(prompts), device=self.device) % 2).float().view(-1, self.num_generations)
        advantages = (rewards - rewards.mean(1, keepdim=True)) / (rewards.std(1, keepdim=True) + 1e-8)
        for rows in torch.randperm(len(prompts)).split(self.minibatch_size):
            chosen, rows = [prompts[row] for row in rows], rows.to(self.device)
            now = self.log_probs(chosen, generation, rows)
            pairs = zip(now, (of_kind[rows] for of_kind in old), strict=True)
            loss = sum(self.clipped(*pair, advantages.view(-1)[rows]) for pair in pairs)
            self.optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
            self.optimizer.step()
        return len(prompts)

    def log_probs(self, prompts, generation: torch_side.Generation, rows) -> tuple[torch.Tensor, torch.Tensor]:
        """Of latents and of answer tokens, one forward pass over the whole rows."""
        special, embed = self.generate.special, self.model.get_input_embeddings()
        prompts = [[*prompt, special.separator] for prompt in prompts]
        question = torch_side.pad_rows(prompts, special.pad, "left", self.device)
        latents, answer = generation.latents[rows].clone(), generation.answer_ids[rows]
        answer = torch.cat([answer.new_full((len(rows), 1), special.separator), answer], 1)
        embeds = torch.cat([embed(question), latents, embed(answer)], 1)
        mask = torch.cat([question != special.pad, generation.latent_mask[rows] > 0, answer >= 0], 1).long()
        output = self.model(
            inputs_embeds=embeds,
            attention_mask=mask,
            position_ids=torch_side.positions(mask),
            output_hidden_states=True,
            use_cache=False,
        )
        first, count = question.shape[1], latents.shape[1]
        gaussian = self.policy(output.hidden_states[-1][:, first - 1 : first + count - 1])
        latent_log_probs = gaussian.log_prob(latents / self.generate.embedding_std).mean(-1)
        logits = output.logits[:, first + count - 1 : -1]
        answer_log_probs = log_softmax(logits, -1).gather(2, answer[..., None])[..., 0]
        return latent_log_probs, answer_log_probs

    @staticmethod
    def clipped(log_probs: torch.Tensor, old_log_probs: torch.Tensor, advantages: torch.Tensor) -> torch.Tensor:
        """The clipped loss, averaged over each chain."""
        ratios = (log_probs - old_log_probs).exp()
        terms = torch.minimum(ratios * advantages[:, None], ratios.clamp(0.8, 1.2) * advantages[:, None])
        return -terms.mean(1).mean()
