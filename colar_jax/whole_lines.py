"""The lines of a file that lines are appended to, without one that a kill cut short."""

from pathlib import Path


def whole_lines(path: Path, *, mends: bool = True) -> list[bytes]:
    """The lines that are whole; [] where there is no file.

    Args:
        mends: whether what is left of a last one is cut off the file, so that a line may be appended. Of several
            processes one does.
    """
    data = path.read_bytes() if path.is_file() else b""
    *whole, rest = data.split(b"\n")
    if rest and mends:
        with path.open("r+b") as file:
            file.truncate(len(data) - len(rest))
    return whole
