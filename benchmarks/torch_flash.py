"""CoLaR's training step in PyTorch as one writes it for a GPU today: the stronger opponent.

Beside `torch_side.SftStep`, which pads and loops as published: a row's real positions stand together at its left, so
that attention is causal without a mask and runs in the flash kernel; language-head logits only where there is a label;
AdamW in one fused kernel. Weights and AdamW's moments are bfloat16 (ours are float32): less to read and to write, so
the comparison is to our disadvantage.
"""

import torch
import torch_side
from torch import nn
from torch.nn.functional import cross_entropy, scaled_dot_product_attention
from torch.nn.functional import pad as pad_right
from transformers import AttentionInterface

CAUSAL = "causal_without_mask"


def _causal_attention(module, query, key, value, attention_mask, scaling=None, **_):
    """transformers makes no mask for an attention of this kind; under `torch.compile` its own would always have one."""
    out = scaled_dot_product_attention(query, key, value, is_causal=True, scale=scaling, enable_gqa=True)
    return out.transpose(1, 2).contiguous(), None


AttentionInterface.register(CAUSAL, _causal_attention)


class FlashStep(torch_side.SftStep):
    """A training step on rows of real positions, then padding; `width` positions each."""

    def __init__(self, model, policy, width: int, **options):
        super().__init__(model, policy, **options)
        self.width = width

    def loss(self, problems: list[torch_side.Problem], speed: int) -> torch.Tensor:
        embeds, labels, is_step = self.rows(problems, speed)
        hidden = self.model.model(inputs_embeds=embeds, use_cache=False).last_hidden_state
        is_label = labels[:, 1:] != torch_side.IGNORED
        logits = self.model.lm_head(hidden[:, :-1][is_label])
        word_loss = cross_entropy(logits.float(), labels[:, 1:][is_label])
        predicted = self.policy(hidden[:, :-1][is_step[:, :-1]]).rsample()
        target = embeds[:, 1:][is_step[:, :-1]].detach() / self.embedding_std
        return word_loss + (predicted - target).square().mean()

    def rows(self, problems: list[torch_side.Problem], speed: int):
        """Embeddings [B, W, D], labels [B, W], and at which positions a latent is learned [B, W]."""
        pad, separator, embed = self.special.pad, self.special.separator, self.model.get_input_embeddings()
        question = torch_side.pad_rows([p.question_ids for p in problems], pad, "right", self.device)
        steps, steps_mask, step_labels = self.compress([[separator, *p.step_ids] for p in problems], speed)
        answer = torch_side.pad_rows([[separator, *p.answer_ids] for p in problems], pad, "right", self.device)
        embeds = torch.cat([embed(question), steps, embed(answer)], 1)
        mask = torch.cat([(question != pad).long(), steps_mask, (answer != pad).long()], 1)
        labels = torch.cat([torch.full_like(question, torch_side.IGNORED), step_labels, answer], 1)
        is_step = torch.cat([torch.zeros_like(question), steps_mask, torch.zeros_like(answer)], 1)
        missing = max(0, self.width - mask.shape[1])
        embeds = pad_right(embeds, (0, 0, 0, missing))
        mask, labels, is_step = (pad_right(x, (0, missing)) for x in (mask, labels, is_step))
        order = mask.argsort(dim=1, descending=True, stable=True)[:, : self.width]
        kept = mask.gather(1, order) > 0
        embeds = embeds.gather(1, order[..., None].expand(-1, -1, embeds.shape[-1]))
        labels = labels.gather(1, order).masked_fill(~kept, torch_side.IGNORED)
        return embeds, labels, (is_step.gather(1, order) > 0) & kept


def row_width(problems: list[torch_side.Problem], speed: int, multiple: int = 8) -> int:
    """Positions of the longest problem, rounded up; one width for all batches, so that one program serves them."""
    longest = max(len(p.question_ids) + -(-(len(p.step_ids) + 1) // speed) + 2 + len(p.answer_ids) for p in problems)
    return -(-longest // multiple) * multiple


def accumulated(step: torch_side.SftStep, problems: list[torch_side.Problem], speed: int, microbatch: int) -> float:
    """One optimizer step on all problems, `microbatch` of them at a time; the loss."""
    parts = [problems[start : start + microbatch] for start in range(0, len(problems), microbatch)]
    step.optimizer.zero_grad()
    total = 0.0
    for part in parts:
        loss = step.loss(part, speed) / len(parts)
        loss.backward()
        total += loss.detach()
    step.optimizer.step()
    return float(total)


class LowRank(nn.Module):
    """A frozen linear layer and its adapter."""

    def __init__(self, linear: nn.Linear, rank: int, alpha: float):
        super().__init__()
        self.linear, self.scale = linear, alpha / rank
        like = dict(bias=False, device=linear.weight.device, dtype=linear.weight.dtype)
        self.a = nn.Linear(linear.in_features, rank, **like)
        self.b = nn.Linear(rank, linear.out_features, **like)
        nn.init.zeros_(self.b.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x) + self.scale * self.b(self.a(x))


def adapt(model, rank: int, alpha: float) -> None:
    """Freezes a Llama and puts adapters on the queries and values of its layers."""
    model.requires_grad_(False)
    for layer in model.model.layers:
        attention = layer.self_attn
        attention.q_proj = LowRank(attention.q_proj, rank, alpha)
        attention.v_proj = LowRank(attention.v_proj, rank, alpha)
