import pickle
from pathlib import Path

import numpy as np
import pytest

from decathlon.release.channels import measure_statistics, official_statistics, read_statistics
from decathlon.release.packed import open_split
from decathlon.tasks import TASKS
from piggyback.data.labelled import join
from piggyback.shell.errors import BadInput


def test_the_organisers_pickle_agrees_with_the_table(shared_data: Path) -> None:
    found = read_statistics(shared_data / "official" / "decathlon_mean_std.pickle")
    assert set(TASKS) < set(found)
    for task in TASKS:
        assert found[task].mean == pytest.approx(official_statistics(task).mean, abs=1e-5)
        assert found[task].std == pytest.approx(official_statistics(task).std, abs=1e-5)


def test_a_pickle_of_todays_numpy_is_read(tmp_path: Path) -> None:
    path = tmp_path / "s.pickle"
    path.write_bytes(pickle.dumps({"dtdmean": np.array([0.1, 0.2, 0.3]), "dtdstd": [0.4, 0.5, 0.6]}, protocol=2))
    if b"_codecs" in path.read_bytes():  # Python 3 writes bytes in protocol 2 through a function: refused
        with pytest.raises(BadInput, match=r"_codecs\.encode"):
            read_statistics(path)
    path.write_bytes(pickle.dumps({"dtdmean": np.array([0.1, 0.2, 0.3]), "dtdstd": [0.4, 0.5, 0.6]}, protocol=4))
    assert read_statistics(path)["dtd"].mean == (0.1, 0.2, 0.3)


class Hostile:
    def __reduce__(self) -> object:
        return Path.touch, (Path("evil"),)


HOSTILE = {
    "code": (pickle.dumps(Hostile()), r"asks for .*refused"),
    "eval": (b"cbuiltins\neval\n(S'1'\ntR.", r"builtins\.eval"),
    "text": (b"not a pickle", "not a readable pickle"),
    "truncated": (pickle.dumps({"dtdmean": [0.1] * 3})[:-5], "not a readable pickle"),
    "persistent": (b"Pid\n.", "not a readable pickle"),
    "half": (pickle.dumps({"dtdmean": [0.1] * 3}), "must hold"),
    "strings": (pickle.dumps({"dtdmean": "abc", "dtdstd": "abc"}), "three numbers"),
    "nan": (pickle.dumps({"dtdmean": [float("nan")] * 3, "dtdstd": [0.1] * 3}), "from 0 to 1"),
    "long": (pickle.dumps({"dtdmean": np.zeros(4), "dtdstd": np.zeros(4)}, protocol=4), "three float64"),
    "list": (pickle.dumps([1]), "must hold a dict"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_anything_else_is_refused(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data, message = HOSTILE[case]
    (tmp_path / "s.pickle").write_bytes(data)
    with pytest.raises(BadInput, match=message):
        read_statistics(tmp_path / "s.pickle")
    assert not (tmp_path / "evil").exists()


def test_measured_statistics_are_those_of_all_pixels(packed_root: Path) -> None:
    split = join(open_split(packed_root, "svhn", "train"), open_split(packed_root, "svhn", "val"))
    pixels = np.concatenate([split.picture(place).reshape(-1, 3) for place in range(len(split))]) / 255
    found = measure_statistics(split)
    assert found.mean == pytest.approx(pixels.mean(0).tolist(), abs=1e-12)
    assert found.std == pytest.approx(pixels.std(0).tolist(), abs=1e-12)
