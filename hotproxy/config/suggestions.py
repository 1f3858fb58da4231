"""'Did you mean ...?': the nearest of the words that would have been right."""

from __future__ import annotations

from collections.abc import Iterable

# Below 0.6 difflib's neighbours are words that merely share letters; 'apj' for 'api' has 0.67.
_CUTOFF = 0.6


def closest(word: str, candidates: Iterable[str]) -> str | None:
    """The candidate that `word` is probably a misspelling of; dashes, underscores and case count as equal."""
    import difflib  # only ever needed for an error

    by_plain = {_plain(candidate): candidate for candidate in candidates}
    plain = _plain(word)[:100]  # difflib is quadratic
    if plain in by_plain:
        return by_plain[plain]
    found = difflib.get_close_matches(plain, by_plain, n=1, cutoff=_CUTOFF)
    return by_plain[found[0]] if found else None


def did_you_mean(word: str, candidates: Iterable[str]) -> str:
    """A hint, or "" when nothing comes near."""
    found = closest(word, candidates)
    return f"did you mean '{found}'?" if found is not None else ""


def _plain(word: str) -> str:
    return word.lower().replace("-", "_")
