"""What an unknown name was most likely meant to be. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(wrong: str, known: Iterable[str]) -> str | None:
    """The known name that `wrong` was most likely meant to be, None when nothing is close."""
    names = list(known)
    section, _, last = wrong.rpartition(".")
    same_name = [name for name in names if name.rpartition(".")[2] == last]
    if same_name:
        return same_name[0]
    # A slip within the right section is likelier than a similar name elsewhere. There only the last parts are compared,
    # because the section they share would make any two of them look alike.
    siblings = {name.removeprefix(f"{section}."): name for name in names if section and name.startswith(f"{section}.")}
    for candidates, word in ((siblings, last), ({name: name for name in names}, wrong)):
        close = difflib.get_close_matches(word, candidates, n=1, cutoff=0.6)
        if close:
            return candidates[close[0]]
    return None
