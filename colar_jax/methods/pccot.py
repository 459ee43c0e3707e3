"""PCCoT: CODI whose latents are made all at once, in a few Jacobi sweeps (arXiv 2506.18582, and its code).

    z_1 = f(h(question ###)),  z_{i+1} = f(h(z_i)) with the h of the sweep before;  the first sweep has `###` everywhere

The losses are CODI's. T sweeps are T + 1 passes of all M latents in place of M passes of one, and make the first T
latents as CODI would; with T = M all of them. The distance of hidden states leaves the embedding out, as its authors'.
"""

import dataclasses

import jax.numpy as jnp

from colar_jax.methods.codi import Codi
from colar_jax.methods.method import Thinking
from colar_jax.methods.thinking import thought_chain
from colar_jax.methods.thinking.thought_chain import Latents, Trunk
from colar_jax.methods.thinking.thought_rows import ThoughtBatch
from colar_jax.methods.thinking.thought_sweeps import Sweeps, run_sweeps
from colar_jax.model.execution import Execution
from colar_jax.model.reasoner import Reasoner
from colar_jax.settings import DecodeConfig
from colar_jax.settings.checks import require


@dataclasses.dataclass(frozen=True)
class Pccot(Codi):
    """CODI with parallel latents (arXiv 2506.18582)."""

    group = "pccot"
    old_names = {}

    num_latents: int = 24  # thought before the answer, all at once
    distill_embedding: bool = False  # among the layers whose states are matched, the embedding
    num_sweeps: int = 3  # T, after the pass over `###`; 0: that pass alone, pauses without latents; num_latents: CODI

    def __post_init__(self):
        super().__post_init__()
        require(
            0 <= self.num_sweeps <= self.num_latents,
            f"{self.group}.num_sweeps={self.num_sweeps} must be between 0 and num_latents={self.num_latents}: with as "
            "many as latents they are what CODI thinks, and more change nothing",
        )

    def idle_in_training(self) -> str:
        if self.projection_size and not self.num_sweeps:
            return (
                f"projection_size={self.projection_size} does nothing with {self.group}.num_sweeps=0, where no latent "
                "is made of a hidden state; set it to 0, or take sweeps"
            )
        return super().idle_in_training()

    def think_in_training(
        self, model: Reasoner, trunk: Trunk, batch: ThoughtBatch, compute: Execution, keys_B
    ) -> Latents:
        sweeps = Sweeps(self.num_latents, self.num_sweeps, self.project)
        return run_sweeps(model, trunk, batch, sweeps, compute, keys_B)

    def thinking(self, decode: DecodeConfig, separator_id: int, *, greedy: bool) -> Thinking:
        def project(model: Reasoner, hidden_BD):
            if self.num_sweeps:
                return self.project(model, hidden_BD)
            return model.llama.embed(jnp.full(hidden_BD.shape[0], separator_id, jnp.int32), hidden_BD.dtype)

        in_turn = thought_chain.fixed_thinking(self.num_latents, project, way="swept")
        return dataclasses.replace(in_turn, sweeps=self.num_sweeps)
