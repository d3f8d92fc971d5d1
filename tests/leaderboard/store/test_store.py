"""Stores: runs are added whole or not at all, once, by any number of processes."""

import hashlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from leaderboard.result import parse_result
from leaderboard.store import staging
from leaderboard.store.adding import add_run
from leaderboard.store.candidates import attempt_key, run_key
from leaderboard.store.reading import read_store
from leaderboard.store.staging import find_runs, plain
from leaderboard.verbs.building import run_build
from leaderboard.verbs.options import AddOptions, BuildOptions, CheckOptions
from leaderboard.verbs.storing import run_add, run_check
from piggyback.shell.errors import ResultError

EXAMPLE = Path(__file__).resolve().parents[1] / "result-v1.json"
PICTURES = (*range(40100001, 40100011), *range(40200011, 40200031))


def document(**changes: Any) -> dict[str, Any]:
    """A record of version 1, of dtd's val part."""
    found: dict[str, Any] = json.loads(EXAMPLE.read_text())
    found["fingerprints"]["predictions"] = hashlib.sha256(predictions()).hexdigest()
    return found | changes


def predictions() -> bytes:
    buffer = io.BytesIO()
    chosen = np.array([40000001 + image % 8 for image in PICTURES])
    np.savez(buffer, task=np.array("dtd"), image_ids=np.array(PICTURES), category_ids=chosen)
    return buffer.getvalue()


def make_run(folder: Path, *, test: bool = True, **changes: Any) -> Path:
    """A finished run as `piggyback decathlon train` leaves it."""
    folder.mkdir(parents=True)
    record = document(**changes)
    (folder / "result.json").write_text(json.dumps(record))
    if test:
        metrics = {"accuracy": 0.5, "error": 0.5}
        second = record | {"split": "test", "counts": {"n": 20, "correct": 10}, "metrics": metrics}
        (folder / "test-result.json").write_text(json.dumps(second))
    (folder / "predictions.npz").write_bytes(predictions())
    (folder / "status.json").write_text("{}")
    (folder / ".lock").write_text("")
    return folder


def tree(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_a_run_is_added_with_its_evidence_and_once(tmp_path: Path) -> None:
    run, store = make_run(tmp_path / "runs" / "dtd-x"), tmp_path / "board"
    added = add_run(store, run)
    assert [one.result.split for one in added] == ["val", "test"]
    val = added[0]
    data = (run / "result.json").read_bytes()
    *above, name = val.place.split("/")
    assert above == ["decathlon", "dtd", "piggyback"]
    assert name == f"seed0-{val.run}-{hashlib.sha256(data).hexdigest()[:8]}"
    assert (val.run, name[-8:]) == (run_key(parse_result(data, name="")), attempt_key(data))
    assert (val.folder / "result.json").read_bytes() == data
    assert val.files == ("predictions.npz",)
    assert (val.folder / "predictions.npz").read_bytes() == predictions()
    before = tree(store)
    assert sorted(name.rpartition("/")[2] for name in before) == ["predictions.npz"] * 2 + ["result.json"] * 2
    assert add_run(store, run) == added
    assert tree(store) == before
    results, findings = read_store(store)
    assert findings == []
    assert results == sorted(added, key=lambda one: one.place)
    assert not any((store / ".staged").iterdir())


def test_the_key_of_a_run_is_of_what_makes_it() -> None:
    def key(**changes: Any) -> str:
        return run_key(parse_result(json.dumps(document(**changes)).encode(), name=""))

    record = document()
    loss = record["metrics"] | {"train_loss": 9.0}
    same: list[dict[str, Any]] = [{"wall_s": 9.0}, {"device": "x"}, {"metrics": loss}]
    assert {key(**changes) for changes in same} == {key()}
    prints = record["fingerprints"]
    other: list[dict[str, Any]] = [
        {"method": "feature"},
        {"task": "svhn"},
        {"split": "test"},
        {"task_version": 2},
        {"recipe": record["recipe"] | {"lr": 0.5}},
        {"seed": 1, "recipe": record["recipe"] | {"seed": 1}},
        {"trained_on": "train+val"},
        {"selected_on": "val"},
        {"fingerprints": prints | {"data": "e" * 64}},
        {"fingerprints": prints | {"backbone": None}},
    ]
    assert len({key(**changes) for changes in [{}, *other]}) == len(other) + 1
    assert key() == "42eb3943c3f3"  # changes only with the format of all stores


def test_many_writers_at_once(tmp_path: Path) -> None:
    recipe = document()["recipe"]
    runs = [make_run(tmp_path / f"r{n}", seed=n, recipe=recipe | {"seed": n}) for n in range(8)]
    store = tmp_path / "board"
    code = "import sys; from pathlib import Path; from leaderboard.store.adding import add_run\n"
    code += "for run in sys.argv[2:]: add_run(Path(sys.argv[1]), Path(run))"
    orders = [[str(run) for run in runs[n:] + runs[:n]] for n in (0, 3, 6)]
    writers = [subprocess.Popen([sys.executable, "-c", code, str(store), *order]) for order in orders]
    assert [writer.wait(timeout=120) for writer in writers] == [0, 0, 0]
    results, findings = read_store(store)
    assert findings == []
    assert sorted(one.result.seed or 0 for one in results) == sorted([*range(8), *range(8)])
    assert not any((store / ".staged").iterdir())


def test_a_place_taken_at_the_last_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, store = make_run(tmp_path / "run", test=False), tmp_path / "board"
    (first,) = add_run(store, run)
    monkeypatch.setattr(Path, "exists", lambda self: self != first.folder and os.path.exists(self))
    assert add_run(store, run) == [first]
    assert read_store(store) == ([first], [])


def test_what_a_killed_writer_leaves_is_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, store = make_run(tmp_path / "run", test=False), tmp_path / "board"

    def killed(staged: Path, target: Path) -> bool:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("leaderboard.store.adding.move_into_place", killed)
        patch.setattr("leaderboard.store.adding.remove", lambda folder: None)
        with pytest.raises(KeyboardInterrupt):
            add_run(store, run)
    assert len(list((store / ".staged").iterdir())) == 1
    assert read_store(store) == ([], [])
    assert len(add_run(store, run)) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "'><plaintext>"}, r"run/result\.json is not added: has the method"),
        ({"metrics": {"accuracy": 0.9}}, r"run/result\.json is not added: result\.json: accuracy 0\.9 is not"),
        ({"fingerprints": {"data": "d" * 64, "backbone": None, "predictions": "0" * 64}}, "npz: has the sha256"),
        ({"schema_version": 7}, "has schema_version 7"),
    ],
)
def test_what_the_store_would_not_show_is_not_added(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ResultError, match=message):
        add_run(tmp_path / "board", make_run(tmp_path / "run", **changes))
    assert tree(tmp_path / "board") == {}


def test_both_records_are_of_one_run(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    second = json.loads((run / "test-result.json").read_text())
    (run / "test-result.json").write_text(json.dumps(second | {"method": "feature", "split": "val"}))
    with pytest.raises(ResultError, match=r"not of the run of result\.json: they differ in method, split"):
        add_run(tmp_path / "board", run)
    assert tree(tmp_path / "board") == {}


def test_links_in_a_run_are_not_followed(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    (run / "sparsity.json").symlink_to(EXAMPLE)
    with pytest.raises(ResultError, match=r"run/sparsity\.json is a link"):
        add_run(tmp_path / "board", run)
    with pytest.raises(ResultError, match=r"is not a finished run: it has no result\.json"):
        add_run(tmp_path / "board", tmp_path)


def test_a_damaged_copy_is_not_taken_for_the_run(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", test=False)
    (stored,) = add_run(tmp_path / "board", run)
    (stored.folder / "predictions.npz").write_bytes(b"")
    with pytest.raises(ResultError, match=r"is there, but damaged, predictions\.npz"):
        add_run(tmp_path / "board", run)


def test_another_result_in_its_place_is_not_taken_for_the_run(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", test=False)
    (stored,) = add_run(tmp_path / "board", run)
    (stored.folder / "result.json").write_text(json.dumps(document(wall_s=77.5)))
    with pytest.raises(ResultError, match="is taken by another result"):
        add_run(tmp_path / "board", run)


def test_logs_are_kept_as_an_excerpt_that_prints(tmp_path: Path) -> None:
    run, log = make_run(tmp_path / "run", test=False), tmp_path / "out.txt"
    long = b"begin\n" + b"x" * 100_000 + b"\nend\n"
    log.write_bytes(long)
    (stored,) = add_run(tmp_path / "board", run, log=log)
    text = (stored.folder / "log.txt").read_text()
    assert text.startswith("begin\nxxx")
    left = len(long) - staging.HEAD - staging.TAIL
    assert f"x\n[... {left:,} bytes are left out here ...]\nxxx" in text
    assert text.endswith("xxx\nend\n")
    assert read_store(tmp_path / "board") == ([stored], [])
    assert plain(b"\x1b[31mred\x1b[0m 10%\r20%\r\nbell\x07 \xff") == "red 10%\n20%\nbell\ufffd \ufffd"


def test_runs_are_found_below_a_sweep_with_their_logs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep, store = tmp_path / "sweep", tmp_path / "sweep" / "board"
    recipe = document()["recipe"]
    for seed in (0, 1):
        make_run(sweep / "decathlon" / "runs" / f"dtd-{seed}", test=False, seed=seed, recipe=recipe | {"seed": seed})
    (sweep / "jobs" / "dtd-0").mkdir(parents=True)
    (sweep / "jobs" / "dtd-0" / "log.txt").write_text("epoch 1\n")
    make_run(sweep / "a" / "b" / "c" / "d" / "e" / "too-deep")
    make_run(tmp_path / "elsewhere" / "run")
    (sweep / "linked").symlink_to(tmp_path / "elsewhere")
    broken = make_run(sweep / "decathlon" / "runs" / "broken", schema_version=8)
    assert run_add(AddOptions(runs=(sweep,), store=store)) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"{broken}/result.json is not added: result.json has schema_version 8")
    assert lines[1] == f"{store}: 2 results added, 0 were there, 1 runs refused"
    results, findings = read_store(store)
    assert findings == []
    assert [one.files for one in results if one.result.seed == 0] == [("predictions.npz", "log.txt")]
    assert run_add(AddOptions(runs=(sweep, sweep / "decathlon"), store=store, json=True)) == 1
    told = json.loads(capsys.readouterr().out)
    assert (told["added"], sorted(told["there"])) == ([], [one.place for one in results])
    assert list(told["refused"]) == [str(broken)]
    assert len(find_runs(sweep, without=store)) == 3
    with pytest.raises(ResultError, match="holds no finished run"):
        run_add(AddOptions(runs=(sweep / "jobs",), store=store))
    with pytest.raises(ResultError, match="nothing to add"):
        run_add(AddOptions(runs=(), store=store))


def test_order_does_not_depend_on_the_file_system(tmp_path: Path) -> None:
    recipe = document()["recipe"]
    for seed in (3, 1, 2):
        add_run(tmp_path / "board", make_run(tmp_path / f"r{seed}", seed=seed, recipe=recipe | {"seed": seed}))
    results, _ = read_store(tmp_path / "board")
    assert len(results) == 6
    assert [one.place for one in results] == sorted(one.place for one in results)


def test_a_store_that_is_none_and_an_empty_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ResultError, match="is no store: there is no such folder") as caught:
        read_store(tmp_path / "board")
    assert caught.value.for_user
    assert run_check(CheckOptions(store=tmp_path)) == 0
    assert capsys.readouterr().out == f"{tmp_path}: 0 results without a finding, 0 findings\n"


def test_a_page_of_a_folder_of_runs_and_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What a sweep ends with: store and page lie within the folder that is looked through."""
    out = tmp_path / "swept"
    make_run(out / "decathlon" / "runs" / "dtd-x")
    options = BuildOptions(store=out / "board", runs=(out,), out=out / "site")
    for added, there in ((2, 0), (0, 2)):  # the second time, copies in store and page are passed over
        assert run_build(options) == 0
        said = capsys.readouterr().out
        assert f"{added} results added, {there} were there, 0 runs refused" in said
        assert f"{out / 'site' / 'index.html'}: " in said
    make_run(out / "decathlon" / "runs" / "dtd-y", metrics={"accuracy": 0.9, "error": 0.1})  # which its counts deny
    assert run_build(options) == 1
    assert "1 runs refused" in capsys.readouterr().out
    assert (out / "site" / "index.html").exists()


def test_a_sweep_without_a_finished_run_has_a_page_too(tmp_path: Path) -> None:
    (tmp_path / "swept").mkdir()
    out = tmp_path / "swept"
    assert run_build(BuildOptions(store=out / "board", runs=(out,), out=out / "site")) == 0
    assert (out / "site" / "index.html").exists()
