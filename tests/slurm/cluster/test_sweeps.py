"""Whole sweeps on the real Slurm; commands of the shell stand for runs, but in the smoke sweep."""

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from itertools import accumulate
from pathlib import Path

import pytest
from cluster import Cluster, run_cluster
from console import Console, attempts_of, is_held, let_go, profiles_of, proof_of, write_profiles
from layout import Options
from smoke import Smoke, finish, read_results, redo_here, run_smoke

pytestmark = pytest.mark.cluster

GOOD = {"a": ["make"], "b": ["make"]}


@pytest.fixture
def console(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Console:
    """What a user types into; --wait, --watch and -f look oftener than they do for users."""
    monkeypatch.setattr("slurm.sending.submission.WAIT_S", 0.2)
    monkeypatch.setattr("slurm.verbs.WATCH_S", 0.2)
    return Console(capsys)


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Smoke]:
    """The smoke sweep under way on a cluster of its own, while other tests wait for their jobs."""
    folder = tmp_path_factory.mktemp("smoke")
    with run_cluster(Options(min_job_age=3600)) as cluster, run_smoke(cluster, folder) as smoke:
        yield smoke


def test_two_users_send_the_smoke_sweep_at_the_same_moment(smoke: Smoke) -> None:
    def all_sent() -> bool:
        return len(smoke.jobs()) >= 14 or (smoke.first.poll() is not None and smoke.second.poll() is not None)

    smoke.cluster.wait_until(all_sent, what="14 jobs sent")


def test_stopped_from_outside(cluster: Cluster, toy: Callable[..., Path], console: Console) -> None:
    file = toy({"a": ["hold"], "b": ["hold"], "c": ["hold"]})
    write_profiles(file, parallel=1)
    jobs = console.send("submit", file)
    cluster.wait_until(lambda: is_held(file, "a"), what="a under way")
    cluster.run("scontrol", "uhold", jobs["b"])
    standings = console.standings(file, "b", "c")
    assert [(one["state"], one["message"]) for one in standings.values()] == [
        ("queued", "Slurm says JobHeldUser"),
        ("queued", ""),
    ]
    cluster.run("scancel", jobs["b"])
    cluster.run("scancel", jobs["a"])
    cluster.wait_until(lambda: is_held(file, "c"), what="c under way")
    console.type("cancel", file, "c")
    standings = console.wait_for_end(file)
    assert {run: (one["state"], one["message"]) for run, one in standings.items()} == {
        "prep": ("done", ""),
        "a": ("stopped", "stopped with a checkpoint"),
        "b": ("failed", "its job ended before it began (CANCELLED)"),
        "c": ("stopped", "cancelled"),
        "score": ("stopped", "to be done again with what it needs"),
    }
    for run in "abc":
        let_go(file, run)
    again = console.send("retry", file)
    assert again.keys() == {"a", "b", "c", "score"}
    assert {one["state"] for one in console.wait_for_end(file).values()} == {"done"}
    assert {run: attempts_of(file, run) for run in jobs} == {"prep": 1, "a": 2, "b": 1, "c": 2, "score": 2}


def test_sbatch_refuses_and_jobs_end_before_they_begin(
    cluster: Cluster, toy: Callable[..., Path], console: Console
) -> None:
    file = toy(GOOD)

    def refused(**profile: object) -> str:
        write_profiles(file, **profile)
        answer = console.type("submit", file, "--cluster", "slurm", "--profiles", profiles_of(file))
        assert (answer.code, answer.out) == (1, "")
        return answer.err

    said = refused(partition="nowhere")
    assert re.fullmatch(r"piggyback: sbatch refuses the prepare jobs: .*invalid partition.*\n", said)
    assert set(console.states(file).values()) == {"missing"}
    said = refused(run={"constraint": "a100"})
    assert re.fullmatch(r"piggyback: sbatch refuses the run jobs: .*Invalid feature specification\n", said)
    console.wait_for(file, {"prep": "done", "a": "missing", "b": "missing", "score": "missing"})

    # Nobody keeps accounts here, so any account will do; what ends the jobs is a line of their own.
    write_profiles(file, account="nobody", run={"setup": ["exit 7"]})
    assert console.send("submit", file).keys() == {"a", "b", "score"}
    standings = console.wait_for_end(file)
    assert {standings[run]["state"] for run in GOOD} == {"failed"}
    assert {standings[run]["message"] for run in GOOD} == {"its job ended before it began (FAILED)"}
    write_profiles(file, account="nobody")
    assert console.send("submit", file).keys() == {"a", "b", "score"}
    assert {one["state"] for one in console.wait_for_end(file).values()} == {"done"}
    assert {run: attempts_of(file, run) for run in ("prep", "a", "b")} == {"prep": 1, "a": 1, "b": 1}


def test_the_first_stage_fails(cluster: Cluster, toy: Callable[..., Path], console: Console) -> None:
    file = toy(GOOD, prep=("fail", "3"))
    write_profiles(file)
    answer = console.type("submit", file, "--cluster", "slurm", "--profiles", profiles_of(file), "--wait")
    assert answer.code == 1
    assert answer.out.count("prep, which it needs, ended with exit code 3") == 2
    assert "the score is 42" in answer.out  # after any ending


def test_names_of_folders(cluster: Cluster, toy: Callable[..., Path], console: Console) -> None:
    file = toy(GOOD, folder='it\'s 100 "$HOME" größe; `x` #1 & (ё)')
    write_profiles(file)
    console.send("submit", file)
    assert {one["state"] for one in console.wait_for_end(file).values()} == {"done"}
    assert console.type("logs", file, "score").out.endswith("the score is 42\n")
    Path(proof_of(file, "b")).unlink()
    sent = console.send("submit", file)
    assert sent.keys() == {"b", "score"}
    assert sent["b"].isdigit()  # no array: these have another name (S15)
    assert {one["state"] for one in console.wait_for_end(file).values()} == {"done"}

    other = toy(GOOD, folder="100%")
    write_profiles(other)
    answer = console.type("submit", other, "--cluster", "slurm", "--profiles", profiles_of(other))
    assert answer.code == 1
    assert re.fullmatch(r"piggyback: the folder '.*100%/swept' has '%' in its path, .*\n", answer.err)
    assert console.type("status", other, "--json").code == 1  # nothing was written, nothing sent


def test_small_arrays_without_accounting(
    make_cluster: Callable[..., Cluster], toy: Callable[..., Path], console: Console
) -> None:
    cluster = make_cluster(accounting=False, min_job_age=2, max_array_size=4)
    names = [f"r{number}" for number in range(9)]
    file = toy({"a": ["hold"]} | {name: ["make"] for name in names})
    write_profiles(file)
    jobs = console.send("submit", file)
    arrays = {jobs[name].partition("_")[0] for name in (*names, "a")}
    assert len(arrays) == 4
    assert [jobs["r8"].isdigit(), jobs["r7"].endswith("_2")] == [True, True]
    assert console.send("submit", file) == {}
    console.wait_for(file, {name: "done" for name in names} | {"a": "running", "score": "queued"})
    assert json.loads(console.type("cancel", file, "a", "--json").out) == {"cancelled": ["a"]}
    assert console.wait_for_end(file)["a"]["message"] == "cancelled"
    cluster.wait_until(lambda: not cluster.run("squeue", "--noheader", "--states=all"), what="jobs forgotten")
    assert console.states(file)["a"] == "stopped"

    sent = console.send("retry", file)
    assert sent.keys() == {"a", "score"}
    cluster.wait_until(lambda: attempts_of(file, "a") == 2, what="a under way")
    cluster.run("scancel", sent["a"])
    assert console.wait_for_end(file)["a"]["message"] == "stopped with a checkpoint"
    let_go(file, "a")
    answer = console.type("submit", file, "--cluster", "slurm", "--profiles", profiles_of(file), "--wait")
    assert answer.code == 0
    assert "the score is 42" in answer.out


def test_watching_ends_with_the_runs(cluster: Cluster, toy: Callable[..., Path], console: Console) -> None:
    file = toy({"a": ["hold"], "b": ["hold"]})
    write_profiles(file)
    console.send("submit", file)

    def end_soon(run: str) -> threading.Timer:
        cluster.wait_until(lambda: is_held(file, run), what=f"{run} under way")
        timer = threading.Timer(1.0, let_go, (file, run))
        timer.start()
        return timer

    timer = end_soon("a")
    answer = console.type("logs", file, "a", "-f")
    assert answer.code == 0
    assert re.fullmatch(r"== .* job \d+_0 restart 0 on n[01]\n", answer.out)
    assert console.states(file)["b"] == "running"
    timer.join()
    timer = end_soon("b")
    answer = console.type("status", file, "--watch")
    assert answer.code == 0
    assert answer.out.endswith("4 done\n")
    timer.join()


def test_many_at_once(make_cluster: Callable[..., Cluster], toy: Callable[..., Path], console: Console) -> None:
    make_cluster(cpus=8, memory_mb=16000)
    runs = [f"r{number}" for number in range(200)]
    file = toy({run: ["span"] for run in runs})
    write_profiles(file, parallel=8)
    console.send("submit", file)
    states: set[str] = set()
    while states != {"done"}:
        asked = time.monotonic()
        states = set(console.states(file).values())
        assert time.monotonic() - asked < 30
        time.sleep(1)
        assert states <= {"done", "running", "queued"}
    spans = [json.loads(Path(proof_of(file, run)).read_text())["span"] for run in runs]
    changes = sorted([(begun, 1) for begun, _ in spans] + [(ended, -1) for _, ended in spans])
    assert 4 <= max(accumulate(change for _, change in changes)) <= 8


def test_the_smoke_sweep(smoke: Smoke) -> None:
    code, printed = finish(smoke.first)
    other_code, other_printed = finish(smoke.second)
    if code:  # the other was first
        code, printed, other_code, other_printed = other_code, other_printed, code, printed
    assert code == 0, f"{printed}\n--- and the other:\n{other_printed}"
    assert "14 done" in printed
    assert re.search(r"(?s)FCN-32s on seg11valid.*sum of points", printed)
    assert ("is at work on sending runs of this sweep already" if other_code else "14 done") in other_printed
    before = smoke.jobs()
    assert len(before) == 14  # each once
    code, printed = smoke.type("submit", "--cluster", "slurm")
    assert (code, "nothing to send" in printed) == (0, True)
    assert smoke.jobs() == before

    there = read_results(smoke.out)
    assert len([name for name in there if name.endswith(".safetensors")]) == 8  # six payloads, two backbones
    assert {one["device"].rpartition(", ")[2] for one in there.values() if "device" in one} == {"1 threads"}
    code, printed = redo_here(smoke)
    assert code == 0, printed
    assert smoke.jobs() == before
    assert read_results(smoke.out) == there
