"""The texts around a problem, exactly as published (docs/method.md).

    Question: {q} Let's think step by step:(Thinking speed: {c})###{steps}###Answer:{a}<eos>

The separator `###` opens and closes the reasoning. It is always tokenized by itself, because `###` followed by a line
break is one other token in the vocabularies of Llama-3 and Qwen2.
"""

SEPARATOR = "###"
ANSWER_PREFIX = "Answer:"
AUTO_SPEED = "auto"
SILENT = ""  # instead of a speed: the prompt says none

# A speed is the number of step tokens that share one position, or "auto": the model may use any.
Speed = float | str


def speed_text(speed: Speed) -> str:
    """How a thinking speed is said in the prompt: 2 and 2.0 are "2", 1.5 is "1.5", "auto" is itself."""
    return speed if isinstance(speed, str) else f"{speed:g}"


def question_prompt(question: str, speed: Speed) -> str:
    """The prompt up to, not including, the separator that opens the reasoning; with `SILENT` it says no speed."""
    said = "" if speed == SILENT else f"(Thinking speed: {speed_text(speed)})"
    return f"Question: {question} Let's think step by step:{said}"


def steps_text(steps: tuple[str, ...]) -> str:
    """The reasoning between the two separators: the steps joined by line breaks."""
    return "\n".join(steps)


def answer_text(answer: str) -> str:
    """The answer after the separator that closes the reasoning (the end-of-sequence token follows)."""
    return f"{ANSWER_PREFIX}{answer}"
