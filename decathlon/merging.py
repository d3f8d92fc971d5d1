"""``piggyback decathlon merge``: backbone and payload as one plain network, for programs that know neither."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import torch
from safetensors.torch import save
from torch import Tensor, nn

from decathlon.backbone.backbone_file import Backbone, load_backbone
from decathlon.bench import HEAD
from decathlon.options import MergeOptions
from piggyback.adapter import attach
from piggyback.payload import Payload, read_payload
from piggyback.shell import console
from piggyback.shell.errors import BadInput
from piggyback.shell.files import sha256_of, write_bytes

ENTRY: Final = "piggyback_merged"


def merge(backbone: Backbone, payload: Path) -> nn.Module:
    """A plain wide residual network that holds the payload's task, its head included; on the CPU.

    The backbone's own network is changed and must not be used afterwards.

    Raises:
        BackboneMismatch: the payload was trained on another backbone.
        BadPayload: the file is damaged.
    """
    adapter = attach(backbone.network, method=read_payload(payload).method, head=HEAD)
    return adapter.merged(adapter.load(payload)).eval()


def encode_state(state: Mapping[str, Tensor], *, backbone: Backbone, payload: Payload) -> bytes:
    """A state dict as safetensors; one metadata entry, which loaders may ignore, says what it is and how it is fed.

    Only one, as safetensors writes several in any order, and the same network must give the same bytes.
    """
    notes = {
        "task": payload.task,
        "method": payload.method.name,
        "backbone": backbone.sha256,
        "normalise": {"mean": list(backbone.mean), "std": list(backbone.std)},
    }
    tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in state.items()}
    return save(tensors, {ENTRY: json.dumps(notes, sort_keys=True)})


def refuse_other(path: Path, data: bytes, *, force: bool) -> None:
    """Raise BadInput if the file has other content than `data` and must not be overwritten."""
    if not path.exists() or (path.is_file() and (force or path.read_bytes() == data)):
        return
    raise BadInput(f"{path} exists and is something else; choose another --out, or pass --force to overwrite a file")


def run(options: MergeOptions) -> int:
    """Write the merged network, and print how it is fed.

    Raises:
        BadInput: a file cannot be read, or the output exists with other content.
        BackboneMismatch: payload and backbone do not belong together.
    """
    payload = read_payload(options.payload)
    backbone = load_backbone(options.backbone)
    usual = backbone.network.state_dict().keys()
    with torch.no_grad():
        state = merge(backbone, options.payload).state_dict()
    added = [key for key in state if key not in usual]
    data = encode_state(state, backbone=backbone, payload=payload)
    refuse_other(options.out, data, force=options.force)
    write_bytes(options.out, data)
    report = {
        "file": str(options.out),
        "sha256": sha256_of(options.out),
        "task": payload.task,
        "method": payload.method.name,
        "classes": int(payload.head["weight"].shape[0]),
        "added_keys": added,
        "normalise": {"mean": list(backbone.mean), "std": list(backbone.std)},
    }
    if options.json:
        console.print_json(report)
        return 0
    text = f"{options.out}: {payload.task} by {payload.method.name}, {report['classes']} classes, a plain state dict"
    console.out.print(text, markup=False, soft_wrap=True)
    if added:
        note = f"note: adapters became biases that the network's own class does not have: {added[0]} and others"
        console.out.print(note, markup=False, soft_wrap=True)
    feed = f"feed it RGB in [0, 1], less mean {list(backbone.mean)}, over standard deviation {list(backbone.std)}"
    console.out.print(feed, markup=False, soft_wrap=True)
    return 0
