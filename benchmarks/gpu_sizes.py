"""What `gpu.py` measures: a model of the Llama-3.2-1B shape, or all of it as small as can be."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Size:
    """The model, and how much of it goes through a step."""

    preset: str
    latent_intermediate: int
    lora_rank: int
    rows: int  # of a training step of ours
    row_positions: int
    steps: int  # of training, in one timed call
    examples: int  # in a training step of PyTorch, `microbatch` at a time
    microbatch: int
    questions: int  # of the rollouts, and how many of each
    generations: int
    latents: int
    answer_tokens: int
    rl_questions: int
    rl_minibatch: int  # rollouts in an update
    thought_rows: int  # of a Coconut or CODI step of ours
    thought_examples: int  # and of PyTorch's
    matrix_size: int  # of the probe
    copy_bytes: int
    seconds: float  # that are measured, at least
    speed: int = 2
    thought_positions: int = 448
    every: int = 1  # how many of XLA's flags, and of the programs whose compiling is timed: all, every second, ...

    def halved(self) -> "Size":
        """Half of everything that goes through a step at a time, for a card with less memory."""
        fields = ("rows", "microbatch", "questions", "rl_questions", "rl_minibatch", "thought_rows", "thought_examples")
        halves = {field: max(1, getattr(self, field) // 2) for field in fields}
        return dataclasses.replace(self, **halves | {"rl_minibatch": max(self.generations, halves["rl_minibatch"])})


SIZES = {
    "1b": Size(
        preset="llama-3.2-1b", latent_intermediate=2048, lora_rank=128,
        rows=16, row_positions=1024, steps=6, examples=160, microbatch=32,
        questions=64, generations=8, latents=64, answer_tokens=16, rl_questions=16, rl_minibatch=32,
        thought_rows=8, thought_examples=32, matrix_size=8192, copy_bytes=2**32, seconds=3.0,
    ),
    # To try the script: nothing that it measures means anything.
    "tiny": Size(
        preset="pico", latent_intermediate=16, lora_rank=2,
        rows=2, row_positions=320, steps=2, examples=4, microbatch=2,
        questions=2, generations=2, latents=3, answer_tokens=16, rl_questions=2, rl_minibatch=2,
        thought_rows=2, thought_examples=2, matrix_size=128, copy_bytes=2**20, seconds=0.0, every=6,
    ),
}  # fmt: skip
