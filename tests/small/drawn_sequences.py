"""Sequences of public calls, as hypothesis draws them."""

from typing import Final

import torch
from drawn_calls import (
    AddTask,
    Attach,
    AttachAgain,
    Base,
    Call,
    Convert,
    Copy,
    FinishTask,
    Foreign,
    Forward,
    Inference,
    Load,
    Merged,
    Mode,
    Prune,
    RemoveTask,
    Resume,
    Save,
    Switch,
    Train,
)
from hypothesis import strategies as st

from piggyback import METHODS
from piggyback.methods.contract import HasMasks

NORMS: Final = ("fixed", "statistics", "trained")
TYPES: Final = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
HOWS: Final = (
    "optimizer",
    "load_state_dict",
    "requires_grad_",
    "replace",
    "data",
    "copy_",
    "data.copy_",
    "nan",
    "head",
)


def methods() -> st.SearchStrategy[str]:
    """Names of methods; those with masks come more often."""
    return st.sampled_from([*METHODS, *(name for name, method in METHODS.items() if isinstance(method, HasMasks))])


TASKS: Final = ("task", "", "a/b", "größe", "line\nline", "%s", "None", "\\")
CALLS: Final[dict[str, st.SearchStrategy[Call]]] = {
    "AddTask": st.builds(
        AddTask,
        method=st.none() | methods(),
        norm=st.none() | st.sampled_from(NORMS),
        head=st.sampled_from(["linear"] * 8 + ["linear without bias", "two layers", "none"]),
        after=st.sampled_from([None] * 5 + [0, 1, 2]),
        name=st.sampled_from(TASKS),
        taken=st.sampled_from([False] * 9 + [True]),
        begin=st.sampled_from(["fitting"] * 9 + ["other", "of nothing"]),
    ),
    "Train": st.builds(
        Train,
        rule=st.sampled_from(["adam", "sgd"]),
        steps=st.integers(1, 3),
        rate=st.sampled_from([1e-2, 1e-2, 1e-3, 1.0]),
        anew=st.booleans(),
        mode=st.sampled_from(["adapter", "adapter", "as it is", "network"]),
    ),
    "Switch": st.builds(Switch, task=st.integers(0, 3)),
    "Base": st.builds(Base),
    "Save": st.builds(
        Save,
        task=st.integers(0, 3),
        to=st.sampled_from(["file"] * 6 + ["no folder", "a folder"]),
        recipe=st.sampled_from(["plain"] * 6 + ["no JSON", "NaN"]),
    ),
    "Load": st.builds(
        Load,
        file=st.integers(0, 3),
        what=st.sampled_from(["file"] * 8 + ["nowhere", ".", "damaged", "other head"]),
        taken=st.sampled_from([False] * 7 + [True]),
    ),
    "RemoveTask": st.builds(RemoveTask, task=st.integers(0, 3)),
    "FinishTask": st.builds(FinishTask, task=st.integers(0, 3)),
    "Merged": st.builds(Merged, task=st.integers(0, 3)),
    "Copy": st.builds(Copy, how=st.sampled_from(["deepcopy", "pickle"])),
    "Mode": st.builds(Mode, who=st.sampled_from(["adapter", "network"]), training=st.booleans()),
    "Forward": st.builds(Forward),
    "Resume": st.builds(Resume, other=st.sampled_from([None, None, None, 0, 1])),
    "Prune": st.builds(Prune, share=st.sampled_from([0.0, 0.5, 1.0])),
    "AttachAgain": st.builds(AttachAgain),
    "Foreign": st.builds(Foreign, how=st.sampled_from(HOWS), at=st.integers(0, 30)),
    "Inference": st.builds(
        Inference,
        call=st.one_of(
            *(st.builds(kind, st.integers(0, 3)) for kind in (Switch, Save, Load)),
            st.builds(AddTask),
            st.builds(Base),
            st.builds(Train),
            st.builds(Mode),
        ),
    ),
    "Convert": st.builds(Convert, to=st.sampled_from([*TYPES, torch.channels_last, torch.contiguous_format])),
}


def attachments(method: str) -> st.SearchStrategy[Attach]:
    """Of one method; sometimes with parts left out."""
    exclude = st.sampled_from(["nothing"] * 5 + ["types", "nobody", "a name"])
    return st.builds(Attach, method=st.just(method), norm=st.sampled_from(NORMS), exclude=exclude)


def sequences() -> st.SearchStrategy[list[Call]]:
    """Calls after `attach`, most of which have a task that is trained to speak of."""
    task, training, foreign = CALLS["AddTask"], CALLS["Train"], CALLS["Foreign"]
    start = st.one_of(*[st.tuples(task, training)] * 4, st.tuples(task), st.tuples(foreign, task, training))
    later = st.one_of(task, training, training, foreign, foreign, *CALLS.values())
    return st.builds(lambda first, more: [*first, *more], start, st.lists(later, min_size=2, max_size=10))
