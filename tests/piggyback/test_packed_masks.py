"""Masks as bits in memory, and the weights that they let through, compiled and not."""

import warnings
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from piggyback.masks import packed_masks
from piggyback.masks.packed_masks import (
    PackedMask,
    block_length,
    exchange_masked,
    move_mask,
    pack_mask,
    shows_masked,
    write_masked,
)

SHAPES = [(), (1,), (7,), (8,), (9,), (3, 5, 7), (64, 3, 7, 7), (16, 8, 3, 3), (127, 8), (40, 32, 3, 3), (2, 0, 3)]


@pytest.fixture(scope="module")
def compiled() -> packed_masks.Compiled:
    """One for all tests here: compiling takes seconds."""
    return packed_masks.Compiled(patience=0)


@pytest.fixture(params=["compiled", "slow", "broken"])
def form(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, compiled: packed_masks.Compiled
) -> Iterator[str]:
    """The loops compiled from the first value on; not at all; or with a compiler that does not work."""
    own = packed_masks.Compiled(patience=1 << 60 if request.param == "slow" else 0)
    monkeypatch.setattr(packed_masks, "COMPILED", compiled if request.param == "compiled" else own)
    if request.param == "broken":
        monkeypatch.setattr(packed_masks, "LOOPS", dict.fromkeys(packed_masks.LOOPS, break_down))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what the compiler finds on the machine
        yield request.param
    if request.param == "compiled":
        assert not packed_masks.COMPILED.failed
    elif request.param == "slow":
        assert not packed_masks.COMPILED.loops


def break_down(*tensors: Tensor) -> None:
    torch._dynamo.graph_break()  # which a full graph may not have
    raise RuntimeError


def drawn_mask(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) > 0.3


def drawn_weight(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """With values that a product with zero would not take away, or whose bits a comparison of numbers would not see."""
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(9)).to(dtype)
    weight.view(-1)[: 4 * 16].view(16, 4)[:] = torch.tensor([float("nan"), float("inf"), -0.0, 0.0])
    return weight


def bits_of(tensor: Tensor) -> Tensor:
    return tensor.detach().view(packed_masks.AS_BITS[tensor.dtype])


@pytest.mark.parametrize("shape", SHAPES)
def test_packing_and_unpacking_give_the_same_values(shape: tuple[int, ...]) -> None:
    mask = drawn_mask(*shape)
    packed = pack_mask(mask)
    assert packed.bits.numel() == (mask.numel() + 7) // 8
    assert packed.count == mask.numel()
    assert torch.equal(packed.unpack(), mask)
    ones = sum(int(byte).bit_count() for byte in packed.bits)
    assert ones == int(mask.sum())


def test_memory_layouts_are_kept_and_followed() -> None:
    mask = drawn_mask(40, 32, 3, 3)
    last = mask.to(memory_format=torch.channels_last)
    packed = pack_mask(last)
    assert packed.stride == last.stride() != mask.stride()
    assert packed.unpack().stride() == last.stride()
    assert torch.equal(packed.unpack(), mask)
    gaps = drawn_mask(40, 64, 3, 3)[:, ::2]  # no memory of its own to walk through
    assert torch.equal(pack_mask(gaps).unpack(), gaps)
    target = torch.empty(40, 32, 3, 3)
    assert packed.is_elsewhere(target)
    assert not packed.is_elsewhere(target.to(memory_format=torch.channels_last))
    moved = move_mask(packed, target)
    assert moved.stride == target.stride()
    assert torch.equal(moved.bits, pack_mask(mask).bits)
    assert move_mask(packed, torch.empty(3)).stride == packed.stride  # of another shape: only the device counts


@pytest.mark.parametrize(
    ("count", "length"), [(0, 1), (1, 1), (31, 31), (62, 62), (64, 32), (1024, 512), (4096, 1024), (1176, 588)]
)
def test_blocks_divide_a_mask_evenly(count: int, length: int) -> None:
    assert block_length(count) == length


def test_a_prime_number_of_bytes_is_one_block() -> None:
    assert block_length(10007) == 10007


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_written_has_the_bits_of_where(form: str, dtype: torch.dtype, channels_last: bool) -> None:
    layout = torch.channels_last if channels_last else torch.contiguous_format
    check_bits(dtype, layout)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_so_it_has_in_other_types(dtype: torch.dtype) -> None:
    check_bits(dtype, torch.contiguous_format)


def check_bits(dtype: torch.dtype, layout: torch.memory_format) -> None:
    weight = drawn_weight(40, 32, 3, 3, dtype=dtype).to(memory_format=layout)
    masks = [drawn_mask(40, 32, 3, 3, seed=seed).to(memory_format=layout) for seed in range(2)]
    one, two = map(pack_mask, masks)
    wanted = [bits_of(torch.where(mask, weight, 0.0)) for mask in masks]
    parameter = torch.empty_like(weight).fill_(7.0)
    write_masked(parameter, weight, one)
    assert torch.equal(bits_of(parameter), wanted[0])
    assert shows_masked(parameter, weight, one)
    assert not shows_masked(parameter, weight, two)
    assert exchange_masked(parameter, weight, one, two)
    assert torch.equal(bits_of(parameter), wanted[1])
    assert not exchange_masked(parameter, weight, one, two)


@pytest.mark.parametrize("place", [0, 5, 4607, 11519])
@pytest.mark.parametrize("bit", [0, 22, 31])
def test_a_single_other_bit_is_seen_and_not_lost(form: str, place: int, bit: int) -> None:
    """The sign of a zero too."""
    weight = drawn_weight(40, 32, 3, 3)
    one, two = (pack_mask(drawn_mask(40, 32, 3, 3, seed=seed)) for seed in range(2))
    parameter = torch.empty_like(weight)
    write_masked(parameter, weight, one)
    bits_of(parameter).view(-1)[place] ^= 1 << bit if bit < 31 else -(1 << 31)
    foreign = parameter.clone()
    assert not shows_masked(parameter, weight, one)
    assert not exchange_masked(parameter, weight, one, two)
    assert not exchange_masked(parameter, weight, two, one)  # the way back
    assert torch.equal(bits_of(parameter), bits_of(foreign))


def test_autograd_sees_that_a_parameter_has_changed(form: str) -> None:
    layer = nn.Linear(64, 128)
    weight = layer.weight.detach().clone()
    one, two = (pack_mask(drawn_mask(128, 64, seed=seed)) for seed in range(2))
    for change in (write_masked, lambda *given: exchange_masked(*given, two)):
        inputs = torch.ones(1, 64, requires_grad=True)
        loss = layer(inputs).sum()
        with torch.no_grad():
            change(layer.weight, weight, one)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()


@pytest.mark.parametrize("shape", [(7, 30, 3, 3), (8, 8), (10007 * 8,), (5,)])
def test_what_does_not_fit_the_loops_is_done_without(form: str, shape: tuple[int, ...]) -> None:
    weight, masks = torch.ones(shape), [pack_mask(drawn_mask(*shape, seed=seed)) for seed in range(2)]
    parameter = torch.empty_like(weight)
    write_masked(parameter, weight, masks[0])
    assert exchange_masked(parameter, weight, *masks)
    assert shows_masked(parameter, weight, masks[1])
    assert torch.equal(parameter != 0, masks[1].unpack())
    assert not packed_masks.is_fit(parameter, weight, *masks)


def test_a_parameter_of_another_type_is_compared_as_it_was_copied(form: str) -> None:
    weight, masks = torch.randn(128, 64), [pack_mask(drawn_mask(128, 64, seed=seed)) for seed in range(2)]
    parameter = torch.empty(128, 64, dtype=torch.bfloat16)
    write_masked(parameter, weight, masks[0])
    assert shows_masked(parameter, weight, masks[0])
    assert exchange_masked(parameter, weight, *masks)
    assert torch.equal(parameter, torch.where(masks[1].unpack(), weight, 0.0).bfloat16())
    before = parameter.clone()
    assert not exchange_masked(parameter, weight, masks[0], masks[1])
    assert torch.equal(parameter, before)


def test_compiling_waits_until_it_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, mask = torch.ones(128, 64), pack_mask(drawn_mask(128, 64))
    monkeypatch.setattr(packed_masks, "COMPILED", packed_masks.Compiled(patience=2 * weight.numel()))
    compiled = []
    for _ in range(4):
        write_masked(torch.empty_like(weight), weight, mask)
        compiled.append(len(packed_masks.COMPILED.loops))
    assert compiled == [0, 0, 1, 1]


def test_a_compiler_that_fails_is_tried_and_told_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(packed_masks, "COMPILED", packed_masks.Compiled(patience=0))
    monkeypatch.setattr(packed_masks, "LOOPS", dict.fromkeys(packed_masks.LOOPS, break_down))
    weight, mask = torch.ones(128, 64), pack_mask(drawn_mask(128, 64))
    parameter = torch.empty_like(weight)
    for _ in range(2):
        write_masked(parameter, weight, mask)
        assert shows_masked(parameter, weight, mask)
    assert capsys.readouterr().err.count("shown by uncompiled loops, the compiler failed: ") == 1
    assert packed_masks.COMPILED.failed


def test_a_packed_mask_says_how_many_values_it_has() -> None:
    assert PackedMask(torch.zeros(2, dtype=torch.uint8), (3, 4), (4, 1)).count == 12
