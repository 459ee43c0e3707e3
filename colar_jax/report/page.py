"""The report as one page that needs nothing else: no server, no network, no other file."""

import html
import json
from collections.abc import Iterable, Sequence
from importlib import resources

# Of each row and data set; `samples.jsonl` has all of them.
MAX_SAMPLES = 200

_ASSETS = resources.files("colar_jax.report") / "page_assets"
_SCRIPTS = ("plot.js", "samples.js", "page.js")


def page(numbers: dict, samples: Sequence[dict]) -> str:
    """The page's HTML: the numbers of `report.json` and some samples, drawn by its own script.

    Everything that was written by others (questions, answers, names) is in one block of JSON in which no `<` stands, so
    that no text can end it, and the script makes text nodes of it, never markup.
    """
    shown, num_left_out = _some(samples)
    data = {"report": numbers, "samples": shown, "samplesLeftOut": num_left_out}
    parts = {
        "TITLE": html.escape(numbers["title"]),
        "STYLE": (_ASSETS / "page.css").read_text(encoding="utf-8"),
        "DATA": _inert_json(data),
        "SCRIPT": "\n".join(
            (_ASSETS / name).read_text(encoding="utf-8") for name in ("plot.js", "samples.js", "page.js")
        ),
    }
    # Split at the places first: what is put in one of them may well say the name of another.
    pieces = (_ASSETS / "page.html").read_text(encoding="utf-8").split("@@")
    return "".join(parts[piece] if i % 2 else piece for i, piece in enumerate(pieces))


def _inert_json(data: dict) -> str:
    """JSON that is the same to a JSON reader and says nothing to one of HTML."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def _some(samples: Iterable[dict]) -> tuple[list[dict], int]:
    """The first samples of each row and data set, and how many there are besides."""
    counts: dict[tuple, int] = {}
    shown, num_left_out = [], 0
    for sample in samples:
        group = tuple(sample.get(name) for name in ("run", "stage", "dataset", "speed", "latent_limit", "temperature"))
        counts[group] = counts.get(group, 0) + 1
        if counts[group] <= MAX_SAMPLES:
            shown.append(sample)
        else:
            num_left_out += 1
    return shown, num_left_out
