"""Lists on a benchmark's command line. Nothing stands in one twice: it would be measured twice, and averaged."""

import argparse


def seed_list(text: str) -> list[int]:
    """The seeds of `0,1,2`; argparse says what is wrong with another text."""
    try:
        seeds = [int(seed) for seed in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} are no seeds: whole numbers with commas between them") from None
    if len(set(seeds)) < len(seeds):
        raise argparse.ArgumentTypeError(f"{text}: a seed is named twice")
    return seeds


def known_names(text: str, known: tuple[str, ...]) -> list[str]:
    """The names of `a,b`, each one of those that there are."""
    names = text.split(",")
    if unknown := [name for name in names if name not in known]:
        raise argparse.ArgumentTypeError(f"there is none called {', '.join(unknown)}, only {', '.join(known)}")
    if len(set(names)) < len(names):
        raise argparse.ArgumentTypeError(f"{text}: one is named twice")
    return names
