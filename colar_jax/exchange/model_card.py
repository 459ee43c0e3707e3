"""The README of an exported model: what it is, how to use it, what it scored, and the config that made it."""

import json

from colar_jax.data.example_questions import EXAMPLE

CARD = """\
---
library_name: transformers
tags:
- colar
- latent-reasoning
{base_line}---

# {title}: stage `{stage}`

A language model that reasons in compressed latent steps (CoLaR, "Think Silently, Think Fast", arXiv 2505.16552),
trained with colar_jax. {contents}

`latent_head.safetensors` and `latent_head.json` hold the Gaussian latent head; without them this is an ordinary
language model, which loads with `transformers`.

## Use

With PyTorch and transformers, without JAX, from this folder:

```
python colar_torch.py "{question}" --speed {speed}
```

```python
from colar_torch import LatentReasoner

reasoner = LatentReasoner.load(".")
print(reasoner.answer("{question}", speed={speed}).text)
```

Trained thinking speeds: {speeds}. A speed that was not trained loses accuracy.

## Results

{results}

## Config

```json
{config}
```
"""


def model_card(
    *, title: str, stage: str, base: str, speeds: tuple[str, ...], is_adapter: bool, report: str, config: dict
) -> str:
    """The card as Markdown.

    Args:
        title, stage: of the run, and which of its stages was exported.
        base: the base model's name, "" for a model trained from random weights.
        speeds: the trained thinking speeds, as prompts say them.
        is_adapter: whether the folder holds a PEFT adapter for `base` (else a whole model).
        report: the run's table in Markdown, "" where it was not evaluated.
        config: the resolved config.
    """
    return CARD.format(
        base_line=f"base_model: {base}\n" if base else "",
        title=title,
        stage=stage,
        contents=f"This folder is a PEFT adapter for `{base}`." if is_adapter else "This folder is a whole model.",
        question=EXAMPLE.question,
        speed=speeds[0] if speeds else "auto",
        speeds=", ".join(speeds) or "none (this stage thinks in words)",
        results=report.strip() or "Not evaluated.",
        config=json.dumps(config, indent=2),
    )
