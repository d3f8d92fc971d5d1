"""Types for fields of option classes that tyro cannot parse by itself."""

from typing import Annotated

from tyro.constructors import PrimitiveConstructorSpec

Names = Annotated[
    tuple[str, ...],
    PrimitiveConstructorSpec(
        nargs=1,
        metavar="A,B,...",
        instance_from_str=lambda words: tuple(name.strip() for name in words[0].split(",") if name.strip()),
        is_instance=lambda value: isinstance(value, tuple),
        str_from_instance=lambda names: [",".join(names)],
    ),
]
"""Several names in one word, separated by commas."""


def _read_numbers(text: str) -> tuple[int, ...]:
    """Whole numbers; tyro turns a ValueError into a usage message."""
    return tuple(int(word) for word in text.split(",") if word)


Numbers = Annotated[
    tuple[int, ...],
    PrimitiveConstructorSpec(
        nargs=1,
        metavar="0,1,...",
        instance_from_str=lambda words: _read_numbers(words[0]),
        is_instance=lambda value: isinstance(value, tuple),
        str_from_instance=lambda numbers: [",".join(map(str, numbers))],
    ),
]
"""Several whole numbers in one word, separated by commas."""
