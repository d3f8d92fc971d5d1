import json
from pathlib import Path

import pytest
import torch

from segmentation.network.backbone_file import import_backbone
from segmentation.network.fcn import VGG16, FCN32s, Shape
from segmentation.network.sizes import run, sizes_of
from segmentation.options import SizesOptions
from segmentation.recipes import FCNRecipe


def report(capsys: pytest.CaptureFixture[str], options: SizesOptions) -> dict[str, object]:
    assert run(options) == 0
    return dict(json.loads(capsys.readouterr().out))


def test_vgg_16_adds_what_the_paper_says(capsys: pytest.CaptureFixture[str]) -> None:
    """Section 6: masks of 17 MB and new layers of 7.5 MB, the latter with the learned deconvolution only."""
    learned = report(capsys, SizesOptions(json=True))
    assert learned["masked_weights"] == 134_248_128
    assert learned["mask_bytes"] == 16_781_016
    assert learned["frozen_rest"] == 12_416
    assert learned["new_layers"] == {"score": 86_037, "upscore": 1_806_336}
    assert learned["new_bytes"] == 4 * 1_892_373 == 7_569_492
    fixed = report(capsys, SizesOptions(settings=FCNRecipe(deconvolution="fixed"), json=True))
    assert fixed["new_layers"] == {"score": 86_037}
    assert fixed["new_bytes"] == 344_148
    assert {key: fixed[key] for key in ("masked_weights", "mask_bytes", "frozen_rest")} == {
        key: learned[key] for key in ("masked_weights", "mask_bytes", "frozen_rest")
    }


def test_the_table_says_the_same_in_megabytes(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(SizesOptions()) == 0
    shown = capsys.readouterr().out
    for text in ("134,248,128", "16.781", "12,416", "1,892,373", "7.569"):
        assert text in shown
    assert "fixed" not in shown
    assert "fc6" not in shown
    assert run(SizesOptions(settings=FCNRecipe(deconvolution="fixed"))) == 0
    shown = capsys.readouterr().out
    assert "0.344" in shown
    assert "the deconvolution is fixed" in shown


def test_hidden_layers_that_the_backbone_lacks_count_as_new() -> None:
    with torch.device("meta"):
        network = FCN32s(Shape(channels=VGG16.channels, hidden=256), hidden=False)
    sizes = sizes_of(FCNRecipe(new_hidden=256), network)
    assert sizes.masked == 14_714_688 - 4_224
    assert sizes.rest == 4_224  # biases of the thirteen convolutions
    fc6, fc7, score, upscore = 256 * (512 * 49 + 1), 256 * (256 + 1), 21 * (256 + 1), 21 * 21 * 64 * 64
    assert dict(sizes.new) == {"fc6": fc6, "fc7": fc7, "score": score, "upscore": upscore}


def test_masks_fill_whole_bytes() -> None:
    with torch.device("meta"):
        network = FCN32s(Shape(channels=((1,),) * 5, hidden=1))
    sizes = sizes_of(FCNRecipe(), network)
    assert sizes.masked == 27 + 4 * 9 + 49 + 1
    assert sizes.mask_bytes == 15


def test_of_a_backbone_without_fc6_the_table_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = {}
    for place, before in ((0, 3), (3, 2), (6, 2), (9, 2), (12, 2)):
        state[f"features.{place}.weight"] = torch.ones(2, before, 3, 3)
        state[f"features.{place}.bias"] = torch.zeros(2)
    torch.save(state, tmp_path / "vgg.pth")
    backbone = tmp_path / "b.safetensors"
    import_backbone(tmp_path / "vgg.pth", convention="caffe", out=backbone)
    options = SizesOptions(backbone=backbone, settings=FCNRecipe(new_hidden=3), json=True)
    found = report(capsys, options)
    assert found["masked_weights"] == 54 + 4 * 36
    assert found["new_layers"] == {
        "fc6": 3 * (2 * 49 + 1),
        "fc7": 3 * 4,
        "score": 21 * 4,
        "upscore": 1_806_336,
    }
    assert run(SizesOptions(backbone=backbone)) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "fc6 and fc7 are not in the backbone: they start at random and are trained in full" in shown
