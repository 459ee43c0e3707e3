"""The README of an exported model: what it is, how to use it, what it scored, and the config that made it."""

import dataclasses
import json
import re
import shlex

# A hub refuses a card whose base is no id there: a path, or a package's file.
_HUB_ID = re.compile(r"([\w-][\w.-]*/[\w.-]+)(?:@.*)?")

CARD = """\
---
library_name: transformers
tags:
- colar
- latent-reasoning
{base_line}---

# {title}: stage `{stage}`

A language model trained with colar_jax. {contents} {thinks}

## Use

{with_torch}With JAX, from anywhere (`colar_jax.serve` and `colar_jax.generate` take the folder, too):

```python
import colar_jax

model = colar_jax.load("<this folder, or its hub id>")
print(model.generate({question}{speed_argument}).answer)
```

{speeds}

## Results

{results}

## Config

```json
{config}
```
"""

WITH_TORCH = """\
With PyTorch and transformers, without JAX, from this folder:

```
python colar_torch.py {question_word}{speed_flag}
```

```python
from colar_torch import LatentReasoner

reasoner = LatentReasoner.load(".")
print(reasoner.answer({question}{speed_argument}).text)
```

"""


@dataclasses.dataclass(frozen=True)
class HowAsked:
    """How a model is asked."""

    question: str  # an example, in one line
    speeds: tuple[str, ...]  # that were trained, as prompts say them; none where there is no speed to choose
    in_torch: bool  # whether `colar_torch.py` thinks as its method does, too


def model_card(
    *,
    stage: str,
    thinks: str,
    asked: HowAsked,
    is_adapter: bool,
    report: str,
    config: dict,
) -> str:
    """The card as Markdown.

    Args:
        stage: which of the run's was exported.
        thinks: how the method thinks, and which files hold what it needs for that.
        asked: how it is asked, for examples.
        is_adapter: whether the folder holds a PEFT adapter for the run's base (else a whole model).
        report: the run's table in Markdown, "" where it was not evaluated.
        config: the run's, resolved; places on the disk of its training by their last names.
    """
    base, speeds = config["model"]["base"], asked.speeds
    examples = {
        "question": json.dumps(asked.question, ensure_ascii=False),
        "question_word": shlex.quote(asked.question),
        "speed_flag": f" --speed {speeds[0]}" if speeds else "",
        "speed_argument": f", speed={_python(speeds[0])}" if speeds else "",
    }
    return CARD.format(
        **examples,
        with_torch=WITH_TORCH.format(**examples) if asked.in_torch else "",
        base_line=f"base_model: {hub_id[1]}\n" if (hub_id := _HUB_ID.fullmatch(base)) else "",
        title=config["title"],
        stage=stage,
        contents=f"This folder is a PEFT adapter for `{base}`." if is_adapter else "This folder is a whole model.",
        thinks=thinks,
        speeds=f"Trained thinking speeds: {', '.join(speeds)}. A speed that was not trained loses accuracy."
        if speeds
        else "There is no thinking speed to choose.",
        results=re.sub(r"\A# .*\n*", "", report.strip()) or "Not evaluated.",
        config=json.dumps(config, indent=2),
    )


def _python(speed: str) -> str:
    """A speed as Python writes it: 2, 1.5, or "auto" in quotes."""
    return speed if speed.replace(".", "", 1).isdigit() else f'"{speed}"'
