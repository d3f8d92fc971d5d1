"""COCO RLE of label maps, decoded again."""

import json
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as coco

from piggyback.shell.errors import BadInput
from segmentation.options import RleOptions
from segmentation.release.label_files import read_label_file, write_label_map
from segmentation.voc_server.rle import run


# pycocotools 2.0.11 decodes through an __array__ without numpy 2's new argument; ours only encodes.
@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning")
def test_decoded_masks_are_the_label_maps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    random = np.random.default_rng(0)
    maps = {
        f"2008_00000{number}": random.choice([0, 2, 20, 255], (7, 4 + number)).astype(np.uint8) for number in range(3)
    }
    maps["2009_000001"] = np.full((2, 2), 255, dtype=np.uint8)
    for name, labels in maps.items():
        write_label_map(tmp_path / "a folder" / f"{name}.png", labels)
    options = RleOptions(predictions=tmp_path / "a folder", out=tmp_path / "out" / "rle.json", json=True)
    assert run(options) == 0
    entries = json.loads(options.out.read_text())
    assert json.loads(capsys.readouterr().out) == {"pictures": 4, "entries": len(entries), "out": str(options.out)}
    assert [(entry["image_id"], entry["category_id"]) for entry in entries] == [
        (name, label) for name in sorted(maps)[:3] for label in (0, 2, 20)
    ]
    for entry in entries:
        wanted = maps[entry["image_id"]] == entry["category_id"]
        assert entry["file_name"] == f"{entry['image_id']}.png"
        assert entry["segmentation"]["size"] == list(wanted.shape)
        assert int(coco.area(entry["segmentation"])) == wanted.sum()
        assert np.array_equal(coco.decode(entry["segmentation"]), wanted)


def test_nothing_is_half_written(tmp_path: Path) -> None:
    folder = tmp_path / "maps"
    write_label_map(folder / "a.png", np.zeros((2, 2), dtype=np.uint8))
    (folder / "b.png").write_bytes(b"no picture")
    with pytest.raises(BadInput, match=r"b\.png is not a PNG"):
        run(RleOptions(predictions=folder, out=tmp_path / "rle.json"))
    assert [path.name for path in tmp_path.iterdir()] == ["maps"]
    with pytest.raises(BadInput, match="is a folder"):
        run(RleOptions(predictions=folder, out=tmp_path))
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match="has no PNG"):
        run(RleOptions(predictions=tmp_path / "empty", out=tmp_path / "rle.json"))


def test_real_label_maps(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "segmentation" / "VOCdevkit" / "VOC2012" / "SegmentationClass"
    options = RleOptions(predictions=folder, out=tmp_path / "rle.json")
    assert run(options) == 0
    entries = json.loads(options.out.read_text())
    assert len({entry["image_id"] for entry in entries}) == 100
    for entry in entries[:30]:
        labels = read_label_file(folder / entry["file_name"])
        assert int(coco.area(entry["segmentation"])) == (labels == entry["category_id"]).sum()
