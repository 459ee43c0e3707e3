"""One iteration of GRPO over latent chains in plain PyTorch and transformers, as published: the opponent in speed.

Every member of a group is a row of its own, with its question prefilled again; the answer prefills everything again
(`torch_side.LatentGenerator`); the update runs each minibatch's rows in full, padded, with language-head logits at
every position. Log-probabilities of the rollout cost it nothing: they are taken from the update itself.
"""

import torch
import torch_side
from torch.nn.functional import log_softmax


class GrpoIteration:
    """Rollouts of all questions, then one clipped-policy-gradient step a minibatch.

    Args:
        num_generations: rollouts of a question.
        minibatch_size: rollouts in one optimizer step.
    """

    def __init__(self, model, policy, num_generations: int, minibatch_size: int, learning_rate: float = 1e-6):
        self.model, self.policy = model, policy
        self.num_generations, self.minibatch_size = num_generations, minibatch_size
        self.generate = torch_side.LatentGenerator(model, policy, fixed_work=True)
        self.parameters = [*model.parameters(), *policy.parameters()]
        self.optimizer = torch.optim.AdamW(self.parameters, learning_rate, weight_decay=0.01)

    def rollout(self, questions: list[list[int]]) -> tuple[list[list[int]], torch_side.Generation]:
        """Every question's prompt, repeated, and what was generated for it."""
        prompts = [question for question in questions for _ in range(self.num_generations)]
        return prompts, self.generate(prompts)

    def __call__(self, questions: list[list[int]]) -> int:
        """One iteration; the number of its rollouts."""
        prompts, generation = self.rollout(questions)
        rewards = (torch.arange(len(prompts)) % 2).float().view(-1, self.num_generations)
        advantages = (rewards - rewards.mean(1, keepdim=True)) / (rewards.std(1, keepdim=True) + 1e-8)
        for rows in torch.randperm(len(prompts)).split(self.minibatch_size):
            loss = self.loss([prompts[row] for row in rows], generation, rows, advantages.view(-1)[rows])
            self.optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
            self.optimizer.step()
        return len(prompts)

    def loss(self, prompts, generation: torch_side.Generation, rows, advantages) -> torch.Tensor:
        """The clipped loss of latents and answer tokens, each averaged over its chain."""
        special, embed = self.generate.special, self.model.get_input_embeddings()
        question = torch_side.pad_rows([[*prompt, special.separator] for prompt in prompts], special.pad, "left")
        latents, answer = generation.latents[rows].clone(), generation.answer_ids[rows]
        answer = torch.cat([torch.full((len(rows), 1), special.separator), answer], 1)
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
        return sum(self.clipped(log_probs, advantages) for log_probs in (latent_log_probs, answer_log_probs))

    @staticmethod
    def clipped(log_probs: torch.Tensor, advantages: torch.Tensor) -> torch.Tensor:
        ratios = (log_probs - log_probs.detach()).exp()
        terms = torch.minimum(ratios * advantages[:, None], ratios.clamp(0.8, 1.2) * advantages[:, None])
        return -terms.mean(1).mean()
