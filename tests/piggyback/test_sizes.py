"""What each method's tasks take: bits as counted by the papers' convention, by hand, and bytes as on disk."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import piggyback
from piggyback import METHODS, Adapter, parameter_ratio
from piggyback.methods.packnet import PackNet
from piggyback.payload import check

LARGE = (16, 8, 3, 3)  # 1152 weights, 128 kernels
SMALL = (16, 8, 1, 1)  # 128 of both
LINEAR = (40, 32)  # 1280 of both

# Piggyback, section 6: one bit.  Three values: log2(3) = 1.58496 bits, 1825.88, 202.88 and 2028.75 of them, rounded up.
# Affine: footnote 3 of arXiv 2103.13894 counts the bits that a domain adds; four numbers of 32 beside the mask.
# KSM: the soft mask is all that its authors store: here a bit per kernel and 32 for each that is off.
# DAN: a controller among the layer's O filters (arXiv 1705.04228).  Adapters: 1x1 convolutions beside or behind
# convolutions larger than 1x1 (srebuffi/residual_adapters, models.py).  Full networks: 32 bits a weight.
COUNTED = {
    "piggyback": (1152, 128, 1280),
    "piggyback-ternary": (1826, 203, 2029),
    "affine": (1152 + 128, 128 + 128, 1280 + 128),
    "ksm": (128, 128, 1280),
    "dan": (32 * 16 * 16, 32 * 16 * 16, 32 * 40 * 40),
    "parallel": (32 * 16 * 8, 0, 0),
    "series": (32 * 16 * 16, 0, 0),
    "series-joint": (32 * 16 * 16, 0, 0),
    "feature": (0, 0, 0),
    "norm": (0, 0, 0),
    "joint": (0, 0, 0),
    "finetune": (32 * 1152, 32 * 128, 32 * 1280),
    "scratch": (32 * 1152, 32 * 128, 32 * 1280),
}


def test_every_method_is_counted() -> None:
    assert COUNTED.keys() | {"packnet"} == METHODS.keys()


@pytest.mark.parametrize("name", COUNTED)
def test_bits_as_counted(name: str) -> None:
    method = METHODS[name]
    assert tuple(method.bits(shape) for shape in (LARGE, SMALL, LINEAR)) == COUNTED[name]
    assert tuple(method.bits(shape, tasks=9) for shape in (LARGE, SMALL, LINEAR)) == tuple(9 * n for n in COUNTED[name])
    assert method.bits(LARGE, tasks=0) == 0


def test_soft_values_count() -> None:
    ksm = METHODS["ksm"]
    assert ksm.bits(LARGE, masked=10) == 128 + 32 * 10
    assert ksm.bits(LARGE, tasks=9, masked=128) == 9 * (128 + 32 * 128)
    assert METHODS["piggyback"].bits(LARGE, masked=10) == 1152


@pytest.mark.parametrize(
    ("tasks", "bits"),
    # ceil(log2(T + 1)), T with the backbone's own; ImageNet and five more take 3 in Piggyback's section 4
    [(1, 2), (2, 2), (3, 3), (5, 3), (6, 3), (7, 4), (9, 4), (14, 4), (15, 5), (0, 0)],
)
def test_packnets_bits_are_for_all_tasks_together(tasks: int, bits: int) -> None:
    assert PackNet().bits(LARGE, tasks=tasks) == 1152 * bits
    if tasks:
        method = PackNet(tasks=tasks)
        planes = [key for key in method.keep(method.start(torch.ones(2, 2))) if "owner" in key]
        assert planes == [f"owner{bit}" for bit in range(bits)]


# -- the Decathlon's network ----------------------------------------------------------------------------


def wide_resnet_shapes() -> list[tuple[int, ...]]:
    """WRN-28-4 in the form that table 8 is about, written out."""
    shapes: list[tuple[int, ...]] = [(16, 3, 3, 3)]
    for inner, outer in ((16, 64), (64, 128), (128, 256)):
        shapes += [(outer, inner, 3, 3), *[(outer, outer, 3, 3)] * 7, (outer, inner, 1, 1)]
    return shapes


WEIGHTS = 5_839_280  # as the authors of DAN count it: 6,103,480 less 257,000 of the head and 7,200 of norm layers
LAYERS = 28
KERNELS = 48 + (1_024 + 7 * 4_096) + (8_192 + 7 * 16_384) + (32_768 + 7 * 65_536)  # of the 3x3 ones
SQUARES = 256 + 8 * 4_096 + 8 * 16_384 + 8 * 65_536  # of the widths of the 3x3 ones
SHORTCUTS = 1_024 + 8_192 + 32_768
SHORTCUT_SQUARES = 4_096 + 16_384 + 65_536
RATIOS = {
    "piggyback": 1.28125,  # 1 + 9/32, table 8
    "piggyback-ternary": 1.4457707,  # 1 + 9 log2(3) / 32, and less than a bit for each layer
    "affine": 1 + 9 * (WEIGHTS + 128 * LAYERS) / (32 * WEIGHTS),
    "ksm": 1 + 9 * (KERNELS + SHORTCUTS) / (32 * WEIGHTS),  # nothing masked: 0.1175 kernels a weight
    "packnet": 1.125,  # 4 bits for nine tasks
    "dan": 1 + 9 * (SQUARES + SHORTCUT_SQUARES) / WEIGHTS,  # table 8: 2.17, from 13 % of all parameters a task
    "parallel": 1 + 9 * KERNELS / WEIGHTS,
    "series": 1 + 9 * SQUARES / WEIGHTS,
    "series-joint": 1 + 9 * SQUARES / WEIGHTS,
    "feature": 1.0,
    "norm": 1.0,
    "joint": 1.0,
    "finetune": 10.0,
    "scratch": 10.0,
}
ROUNDED = {"dan": 2.194, "parallel": 1.993, "series": 2.061, "ksm": 1.033, "affine": 1.281}  # as pages may print them


def test_the_network_is_the_one_of_the_papers() -> None:
    assert sum(math.prod(shape) for shape in wide_resnet_shapes()) == WEIGHTS
    assert len(wide_resnet_shapes()) == LAYERS
    assert 9 * KERNELS + SHORTCUTS == WEIGHTS
    assert RATIOS.keys() == METHODS.keys()


@pytest.mark.parametrize("name", RATIOS)
def test_the_ratio_of_nine_tasks(name: str) -> None:
    found = parameter_ratio([METHODS[name]] * 9, shapes=wide_resnet_shapes())
    assert found == pytest.approx(RATIOS[name], rel=1e-6)
    assert round(found, 3) == ROUNDED.get(name, round(RATIOS[name], 3))


def test_the_ratio_of_ksm_with_everything_masked() -> None:
    masked = [shape[0] * shape[1] for shape in wide_resnet_shapes()]
    found = parameter_ratio([METHODS["ksm"]] * 9, shapes=wide_resnet_shapes(), masked=masked)
    assert found == pytest.approx(1 + 9 * 33 * (KERNELS + SHORTCUTS) / (32 * WEIGHTS), rel=1e-12)


# -- on disk --------------------------------------------------------------------------------------------

# The test network: 8 x 3 and, in groups, 16 x 4 kernels of 3 x 3, and a linear layer of 24 x 64.
WEIGHTS_HERE = (216, 576, 1536)
KERNELS_HERE = (24, 64, 1536)
PLANES = {"piggyback": 1, "piggyback-ternary": 2, "affine": 1, "ksm": 1, "packnet": 4}
NUMBERS = {
    "affine": 3 * 4,
    "dan": 8 * 8 + 16 * 16 + 24 * 24,
    "parallel": 8 * 3 + 16 * 4,
    "series": (8 * 8 + 4 * 8) + (16 * 16 + 4 * 16),  # norm layers here with factor, shift, mean and variance
    "series-joint": (8 * 8 + 4 * 8) + (16 * 16 + 4 * 16),
}


def add_drawn(adapter: Adapter, **task: object) -> None:
    """A task whose numbers are drawn at random: half of each mask is off."""
    adapter.add_task("task", **task)
    state = adapter.task("task")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, trained in state.trained.items():
            for key, tensor in trained.items():
                if key == "mask_real":
                    tensor.uniform_(-0.02, 0.03, generator=generator)
                elif tensor.is_floating_point():
                    tensor.normal_(generator=generator)
            if isinstance(state.method, PackNet):
                state.method.prune(trained, share=0.75, name=name)
    adapter.switch("task")


@pytest.mark.parametrize("name", METHODS)
def test_bytes_on_disk(
    name: str, make_ground: Callable, make_head: Callable, begin_of: Callable, tmp_path: Path
) -> None:
    method, path = METHODS[name], tmp_path / "task.safetensors"
    adapter = piggyback.attach(make_ground(method), method=method, head="head")
    add_drawn(adapter, head=make_head(0), **begin_of(method))
    adapter.save(path, task="task")
    payload, header, stored = piggyback.read_payload(path), check(path.read_bytes()), load_file(path)

    values = KERNELS_HERE if name == "ksm" else WEIGHTS_HERE
    planes = {label: tensor for label, tensor in stored.items() if label.startswith("mask/")}
    assert len(planes) == 3 * PLANES.get(name, 0) == len(header["masks"])
    for label, tensor in planes.items():
        assert tensor.numel() <= math.ceil(math.prod(header["masks"][label.removeprefix("mask/")]["shape"]) / 8)
    assert payload.bytes_by_kind["mask"] == sum(tensor.numel() for tensor in planes.values())
    assert payload.bytes_by_kind["mask"] <= PLANES.get(name, 0) * sum(values) // 8
    if name in ("piggyback", "affine", "ksm"):  # half of each is off: no coding is shorter than the bits themselves
        assert payload.bytes_by_kind["mask"] == sum(values) // 8

    numbers, counters = NUMBERS.get(name, 0), 0
    kept = {weight: adapter.task("task").kept_of(weight) for weight in adapter.anatomy.weights}
    if name == "ksm":
        numbers = sum(int((~parts["mask"]).sum()) for parts in kept.values())
        assert 0.4 < numbers / sum(KERNELS_HERE) < 0.8
    if name == "packnet":  # a quarter of the half that was free, and a byte for each weight: which task it is
        numbers, counters = (108 - 81) + (288 - 216) + (768 - 576), 3
    if method.adapts == "modules":
        counters = 2 * 8  # of batches
    assert payload.bytes_by_kind["value"] == 4 * numbers + counters
    assert payload.bytes_by_kind["weight"] + payload.bytes_by_kind["norm"] == sum(
        tensor.nbytes for tensor in adapter.task("task").own.values()
    )
    assert sum(payload.bytes_by_kind.values()) == path.stat().st_size
