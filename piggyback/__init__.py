"""Adapt one frozen pretrained network to many tasks, one bit per weight and task.

>>> import torch, piggyback
>>> network = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
>>> adapter = piggyback.attach(network, method=piggyback.Binary(), head="2")
>>> adapter.add_task("animals", head=torch.nn.Linear(8, 5))
>>> network(torch.zeros(1, 4)).shape
torch.Size([1, 5])
"""

from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from piggyback.adapter import Adapter as Adapter
    from piggyback.adapter import attach as attach
    from piggyback.budget import measure_sparsity as measure_sparsity
    from piggyback.budget import parameter_ratio as parameter_ratio
    from piggyback.methods.binary import Binary as Binary
    from piggyback.methods.contract import Method as Method
    from piggyback.methods.feature import Feature as Feature
    from piggyback.methods.finetune import Finetune as Finetune
    from piggyback.methods.registry import METHODS as METHODS
    from piggyback.methods.ternary import Ternary as Ternary
    from piggyback.numerics.rules import AdamRule as AdamRule
    from piggyback.numerics.rules import SGDRule as SGDRule
    from piggyback.payload import Payload as Payload
    from piggyback.payload import read_payload as read_payload

# The console command lives in this package, and no --help may load torch: names are looked up when used.
_HOME: Final = {
    "AdamRule": "numerics.rules",
    "Adapter": "adapter",
    "Binary": "methods.binary",
    "Feature": "methods.feature",
    "Finetune": "methods.finetune",
    "METHODS": "methods.registry",
    "Method": "methods.contract",
    "Payload": "payload",
    "SGDRule": "numerics.rules",
    "Ternary": "methods.ternary",
    "attach": "adapter",
    "measure_sparsity": "budget",
    "parameter_ratio": "budget",
    "read_payload": "payload",
}

__all__ = [  # noqa: RUF022 -- what a user meets first stands first
    "attach",
    "Adapter",
    "Binary",
    "Ternary",
    "Feature",
    "Finetune",
    "Method",
    "METHODS",
    "AdamRule",
    "SGDRule",
    "Payload",
    "read_payload",
    "parameter_ratio",
    "measure_sparsity",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"piggyback has no {name!r}; it has {', '.join(sorted(_HOME))}")
    return getattr(import_module(f"piggyback.{_HOME[name]}"), name)
