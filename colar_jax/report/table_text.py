"""A table as text: Markdown, LaTeX (booktabs) and CSV."""

import csv
import io

from colar_jax.report.tables import Table

_LATEX_SIGNS = str.maketrans(
    {
        "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
        "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "≤": r"$\leq$", "−": "$-$", "–": "--",
        "<": "$<$", ">": "$>$", "|": "$|$", "[": "{[}", "]": "{]}", "\n": " ",
    }
)  # fmt: skip


def markdown_text(table: Table | None, heading: str = "") -> str:
    """The table and what is below it, after a heading where there is one; "" for no table."""
    if table is None:
        return ""
    lines = [table.header, ["---"] * len(table.header), *table.rows] if table.rows else []
    drawn = "\n".join(f"| {' | '.join(cell.replace('|', '&#124;') for cell in line)} |" for line in lines)
    return "\n\n".join(filter(None, [heading and f"## {heading}", drawn, *table.notes])) + "\n"


def latex_text(table: Table) -> str:
    """A `table` that needs the package booktabs; the first note is in its caption, others are comments. All of them are
    where there are no rows."""
    if not table.rows:
        return "".join(f"{_comment(note)}\n" for note in table.notes)
    lines, before = [], table.groups[0] if table.groups else ""
    for group, row in zip(table.groups, table.rows, strict=True):
        lines += [r"\midrule"] if group != before else []
        lines.append(_latex_row(row))
        before = group
    caption = " ".join(_escaped(text) for text in (table.title.rstrip("?") + ".", *table.notes[:1]))
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{caption}}}",
            rf"\label{{tab:{table.name}}}",
            rf"\begin{{tabular}}{{{'l' * len(table.header)}}}",
            r"\toprule",
            _latex_row(table.header),
            r"\midrule",
            *lines,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            *map(_comment, table.notes[1:]),
            "",
        ]
    )


def csv_text(records: list[list[str]] | list[dict]) -> str:
    """Lines of cells, or records of one form with a header of their names."""
    text = io.StringIO()
    if isinstance(records[0], dict):
        records = [list(records[0]), *([*record.values()] for record in records)]
    csv.writer(text, lineterminator="\n").writerows(records)
    return text.getvalue()


def _comment(text: str) -> str:
    return f"% {' '.join(text.split())}"


def _latex_row(cells: list[str]) -> str:
    return " & ".join(_escaped(cell) for cell in cells) + r" \\"


def _escaped(text: str) -> str:
    return text.translate(_LATEX_SIGNS)
