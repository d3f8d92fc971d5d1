"""Types for the fields of option classes, beyond those that tyro reads by itself."""

from typing import Annotated

from tyro.constructors import PrimitiveConstructorSpec

Names = Annotated[
    tuple[str, ...],
    PrimitiveConstructorSpec(
        nargs=1,
        metavar="A,B,...",
        instance_from_str=lambda words: tuple(name for name in words[0].split(",") if name),
        is_instance=lambda value: isinstance(value, tuple),
        str_from_instance=lambda names: [",".join(names)],
    ),
]
"""Several names in one word, with commas between them."""
