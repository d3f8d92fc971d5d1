"""How runs stand."""

import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from piggyback.shell.errors import SweepError
from piggyback.shell.files import write_json
from slurm.folder.claims import Owner
from slurm.folder.layout import SweepFolder
from slurm.planning.planned_run import PlannedRun
from slurm.planning.plans import Plan, find_related, find_unsent
from slurm.queries import Answer, find_states
from slurm.reports import clock, count_states, measure, show_standings
from slurm.states import Standing, Traces, choose, find_standings, find_traces

DEAD = replace(Owner.local(), start=1)


def look(planned: Plan, run: str = "a") -> Standing:
    return find_standings(planned.folder, planned.runs, only={run})[0]


def attempt(planned: Plan, *, code: int | None, message: str | None = None) -> None:
    claims = planned.folder.job("a").claims
    number = claims.take(DEAD, what="a", ask_slurm=lambda job: False)
    if code is not None:
        claims.end(number, {"code": code, "message": message})


@pytest.fixture
def planned(make_plan: Callable[..., Plan]) -> Plan:
    return make_plan(a=(["make"], []))


def test_never_sent_and_done(planned: Plan) -> None:
    assert look(planned).state == "missing"
    proof = planned.folder.proof(planned.runs[0])
    write_json(proof, {"metrics": {"accuracy": 0.5, "mean_iou": 0.25}})
    one = look(planned)
    assert (one.state, one.progress, one.metric) == ("done", 1.0, ("mean_iou", 0.25))
    json.dumps(one.as_json(), allow_nan=False)


@pytest.mark.parametrize(
    ("code", "message", "expected"),
    [
        (75, None, ("stopped", "stopped with a checkpoint")),
        (3, None, ("failed", "exit code 3")),
        (137, None, ("failed", "killed by SIGKILL: most likely there was not enough memory (exit code 137)")),
        (143, None, ("failed", "killed by SIGTERM (exit code 143)")),
        (1, "p, which it needs, has not run", ("failed", "p, which it needs, has not run")),
        (None, None, ("failed", "its process ended without a word")),
        (0, None, ("stopped", "to be done again with what it needs")),
    ],
)
def test_ends(planned: Plan, code: int | None, message: str | None, expected: tuple[str, str]) -> None:
    attempt(planned, code=code, message=message)
    assert (look(planned).state, look(planned).message) == expected


@pytest.mark.parametrize(
    ("squeue", "sacct", "expected"),
    [
        ("12_[0-3]|PENDING\n", "", ("queued", "")),
        ("12_0|RUNNING|None\n", "", ("running", "")),
        ("12_0|PENDING|Priority\n", "", ("queued", "")),
        ("12_0|PENDING|JobHeldUser\n", "", ("queued", "Slurm says JobHeldUser")),
        ("12_0|NEW_WORD\n", "", ("queued", "")),  # it is there: never sent a second time
        ("", "12_0|CANCELLED by 0\n", ("failed", "its job ended before it began (CANCELLED)")),
        ("", "", ("failed", "its job ended before it began")),
        (None, "", ("unknown", "Slurm does not answer")),
    ],
)
def test_sent_to_slurm(
    planned: Plan, fake_slurm: Path, squeue: str | None, sacct: str, expected: tuple[str, str]
) -> None:
    attempt(planned, code=75)
    folder = planned.folder.job("a")
    folder.note_sent(cluster="slurm", job="12_0", attempt=folder.claims.next())
    if squeue is None:
        (fake_slurm / "squeue.err").write_text("Unable to contact slurm controller\n")
    else:
        (fake_slurm / "squeue.txt").write_text(squeue)
    (fake_slurm / "sacct.txt").write_text(sacct)
    one = look(planned)
    assert (one.state, one.message, one.job) == (*expected, "12_0")
    if expected[0] == "unknown":
        with pytest.raises(SweepError, match="1 runs were sent to Slurm, which does not answer"):
            find_unsent(planned)
    else:
        assert [run.id for run in find_unsent(planned)] == (["a"] if expected[0] == "failed" else [])


@pytest.mark.parametrize(
    ("code", "word", "expected"),
    [
        (3, "COMPLETING", "failed"),  # Slurm cleans up behind it
        (3, "RUNNING", "failed"),
        (75, "RUNNING", "running"),  # about to ask for being queued again
        (75, "COMPLETING", "running"),
        (143, "COMPLETING", "running"),  # killed, most likely by Slurm
        (3, "PENDING", "queued"),  # somebody has it done again
    ],
)
def test_an_end_that_slurm_has_not_seen_yet(
    planned: Plan, fake_slurm: Path, code: int, word: str, expected: str
) -> None:
    planned.folder.job("a").note_sent(cluster="slurm", job="12", attempt=0)
    attempt(planned, code=code)
    (fake_slurm / "squeue.txt").write_text(f"12|{word}|None\n")
    assert look(planned).state == expected
    assert [run.id for run in find_unsent(planned)] == (["a"] if expected == "failed" else [])


def test_a_run_that_ends_while_it_is_looked_at(planned: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = find_traces

    def end_now(sweep: SweepFolder, run: PlannedRun) -> Traces:
        write_json(planned.folder.proof(run), {})
        attempt(planned, code=0)
        return seen(sweep, run)

    monkeypatch.setattr("slurm.states.find_traces", end_now)
    assert look(planned).state == "done"  # not to be done again


def test_a_job_that_comes_and_goes_while_slurm_is_asked(
    planned: Plan, fake_slurm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = planned.folder.job("a")
    folder.note_sent(cluster="slurm", job="12", attempt=0)
    (fake_slurm / "squeue.txt").write_text("12|COMPLETED|None\n")

    def ask(jobs: Iterable[str]) -> Answer:
        attempt(planned, code=3)
        return find_states(jobs)

    monkeypatch.setattr("slurm.states.find_states", ask)
    assert look(planned).message == "exit code 3"  # not: it ended before it began
    folder.note_sent(cluster="slurm", job="12", attempt=1)

    def ask_and_send(jobs: Iterable[str]) -> Answer:
        folder.note_sent(cluster="slurm", job="13", attempt=1)
        return find_states(jobs)

    monkeypatch.setattr("slurm.states.find_states", ask_and_send)
    (fake_slurm / "squeue.txt").write_text("12|PENDING|None\n")
    one = look(planned)
    assert (one.state, one.job) == ("queued", "12")


def test_a_node_is_lost_and_slurm_queues_the_job_again(planned: Plan, fake_slurm: Path) -> None:
    folder = planned.folder.job("a")
    folder.note_sent(cluster="slurm", job="12", attempt=0)
    owner = Owner(job="12", restart=0, host="node1", pid=1, start=1, node="node1")
    folder.claims.take(owner, what="a", ask_slurm=lambda job: None)
    (fake_slurm / "squeue.txt").write_text("12|RUNNING\n")
    assert (look(planned).state, look(planned).node) == ("running", "node1")
    (fake_slurm / "squeue.txt").write_text("12|PENDING\n")
    assert look(planned).state == "queued"
    (fake_slurm / "squeue.txt").write_text("")
    (fake_slurm / "sacct.txt").write_text("12|NODE_FAIL\n12.batch|CANCELLED\n")
    assert look(planned).message == "its process ended without a word (NODE_FAIL)"


def test_under_way(planned: Plan) -> None:
    planned.folder.job("a").claims.take(Owner.local(), what="a", ask_slurm=lambda job: None)
    folder = planned.runs[0].folder
    assert look(planned).state == "running"
    write_json(folder / "status.json", {"state": "running", "progress": 0.25, "seconds": 30})
    (folder / "metrics.jsonl").write_text('{"loss": 3.0}\n{"epoch": 2, "loss": 2.5}\n')
    one = look(planned)
    assert (one.progress, one.seconds, one.left_s, one.metric) == (0.25, 30.0, 90.0, ("loss", 2.5))
    (folder / "metrics.jsonl").write_text('{"loss": NaN, "val_accuracy": 0.5}\n')
    write_json(folder / "status.json", {"progress": "x", "seconds": 10**400})
    one = look(planned)
    assert (one.progress, one.metric) == (None, ("val_accuracy", 0.5))
    json.dumps(one.as_json(), allow_nan=False)


def test_a_local_queue_that_is_gone(planned: Plan) -> None:
    folder = planned.folder.job("a")
    folder.note_sent(cluster="local", job="", attempt=0)
    assert look(planned).message == "its queue ended before it began"
    with planned.folder.queue.hold(what="q"):
        assert look(planned).state == "queued"
        write_json(folder.cancelled, {})
        assert (look(planned).state, look(planned).message) == ("stopped", "cancelled")
        folder.cancelled.unlink()
        attempt(planned, code=3)
        assert look(planned).state == "failed"
    assert look(planned).state == "failed"


def test_a_sweep_that_was_never_submitted(tmp_path: Path) -> None:
    with pytest.raises(SweepError, match=r"no sweep was submitted to .*: it has no plan\.json"):
        SweepFolder(tmp_path).read_plan()


def test_plan_files_round_trip(planned: Plan) -> None:
    planned.folder.write_plan("n", planned.runs)
    assert planned.folder.read_plan() == ("n", list(planned.runs))


def test_choose(make_plan: Callable[..., Plan]) -> None:
    runs = make_plan(svhn=(["make"], []), dtd=(["make"], [])).runs
    assert [run.id for run in choose(runs, ["s*"])] == ["svhn"]
    assert [run.id for run in choose(runs, ["toy"])] == ["svhn", "dtd"]
    assert choose(runs, []) == list(runs)
    with pytest.raises(SweepError, match="no run of the sweep is called 'x'"):
        choose(runs, ["dtd", "x"])


def test_what_goes_with_a_run(make_plan: Callable[..., Plan]) -> None:
    runs = list(make_plan(p=(["say"], []), a=(["make"], ["p"]), b=(["make"], ["p"]), s=(["say"], ["a", "b"])).runs)
    runs[-1] = replace(runs[-1], after="ended")
    assert find_related(runs, ["a"]) == {"p", "a", "s"}  # the score, without what else it waits for
    assert find_related(runs, ["p"]) == {"p", "a", "b", "s"}
    assert find_related(runs, []) == set()


def test_a_report(planned: Plan, capsys: pytest.CaptureFixture[str]) -> None:
    run = planned.runs[0]
    show_standings("n", [Standing(run=run, state="failed", message="[red]no[/red] luck")])
    text = capsys.readouterr().out
    assert "[red]no[/red] luck" in text
    assert "1 failed" in text
    assert (clock(3725), clock(None)) == ("1:02:05", "-")
    assert (measure(("accuracy", 0.5)), measure(("loss", 1.5)), measure(None)) == (
        "accuracy 50.00 %",
        "loss 1.500",
        "-",
    )
    assert count_states([]) == "no runs"
