"""Whether a network is in the hands of DistributedDataParallel."""

import gc

import torch
from torch import nn

from piggyback.shell.errors import BadInput


def refuse_if_wrapped(network: nn.Module) -> None:
    """Tasks bring parameters of their own, which a wrapper made earlier would never synchronise.

    Raises:
        BadInput: some DistributedDataParallel holds the network.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return
    wrapper = nn.parallel.DistributedDataParallel
    for holder in gc.get_objects():  # torch keeps no trace of the wrapper on the module it wraps
        # type(), not isinstance(): the latter asks proxies for their __class__, and some warn when touched
        if issubclass(type(holder), wrapper) and holder.module is network:
            raise BadInput("the network is wrapped in DistributedDataParallel: add and switch tasks before wrapping it")
