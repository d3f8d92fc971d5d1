"""Labels of entries: the method, with the settings in which recipes of one method differ."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from leaderboard.statistics.entries import Entry

_CHOSEN: Final = ("seed", "lr_used", "lr_trials")
"""Settings that a run chose by itself: not part of the recipe that it was given."""


def given(recipe: Mapping[str, Any] | None) -> dict[str, Any]:
    """The recipe as it was given to the runs of all tasks and seeds."""
    return {key: value for key, value in (recipe or {}).items() if key not in _CHOSEN}


def labelled(entries: Sequence[Entry]) -> list[Entry]:
    """The entries, with the settings in which recipes of one method differ in their labels."""
    siblings: defaultdict[tuple[str, str], list[Entry]] = defaultdict(list)
    for entry in entries:
        siblings[entry.benchmark, entry.method].append(entry)
    return [
        replace(entry, label=entry.method + settings)
        for family in siblings.values()
        for entry, settings in zip(family, tell_apart([given_recipe(entry) for entry in family]), strict=True)
    ]


def given_recipe(entry: Entry) -> dict[str, str]:
    """Recipe of a measured entry without what runs chose by themselves: JSON by setting."""
    return {
        key: json.dumps(value, sort_keys=True, ensure_ascii=False)
        for key, value in given(entry.stored[0].result.recipe).items()
    }


def tell_apart(recipes: Sequence[Mapping[str, str]], *, settings: int = 3, longest: int = 24) -> list[str]:
    """Describe the settings in which recipes differ, for each such as " (lr=0.1)"; empty for equal recipes.

    Args:
        recipes: JSON by setting.
        settings: how many are named; a digest of the whole recipe replaces the rest.
        longest: characters of a setting's text.
    """
    keys = sorted({key for recipe in recipes for key in recipe})
    differing = [key for key in keys if len({recipe.get(key) for recipe in recipes}) > 1]
    if not differing:
        return [""] * len(recipes)
    labels = []
    for recipe in recipes:
        words = [(key, _without_brackets(recipe.get(key, "none"))) for key in differing[:settings]]
        parts = [f"{_cut(key, longest)}={_cut(text, longest)}" for key, text in words]
        cut = any(max(len(key), len(text)) > longest for key, text in words)
        if len(differing) > settings or cut:
            parts.append(hashlib.sha256(json.dumps(dict(recipe), sort_keys=True).encode()).hexdigest()[:6])
        labels.append(f" ({', '.join(parts)})")
    return labels


def _without_brackets(text: str) -> str:
    """Write several names as options take them, separated by spaces."""
    names = json.loads(text) if text.startswith('["') else []
    return " ".join(names) if names and all(isinstance(name, str) for name in names) else text


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[: longest - 1]}\N{HORIZONTAL ELLIPSIS}"
