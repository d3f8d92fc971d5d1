"""Sweeps and profiles as a user writes them."""

from pathlib import Path

import pytest

from piggyback.shell.errors import SweepError
from slurm.planning.profiles import Profile, find_profile, read_profile
from slurm.planning.sweep_files import read_sweep

SWEEP = 'name = "n"\nout = "o"\n[[benchmark]]\nname = "toy"\n'


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_relative_folders_count_from_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    write(tmp_path / "real" / "s.toml", SWEEP)
    monkeypatch.chdir(tmp_path)
    sweep = read_sweep(Path("link/s.toml"))
    assert (sweep.out, sweep.root) == (tmp_path / "link" / "o", tmp_path / "link")  # links are not followed
    monkeypatch.chdir("/")
    assert read_sweep(tmp_path / "link" / "s.toml") == sweep
    absolute = write(tmp_path / "t.toml", SWEEP.replace('"o"', '"/o"'))
    assert read_sweep(absolute).out == Path("/o")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name = ", "not a TOML file"),
        (SWEEP.replace("out", "outt"), "unknown field 'outt' at the top"),
        (SWEEP.replace('"o"', "3"), "must have a name and an out folder"),
        ('name = "n"\nout = "o"\n', r"must have a \[\[benchmark\]\] table"),
        (SWEEP.replace('name = "toy"', "seeds = [0]"), r"each \[\[benchmark\]\] table must have a name"),
        ("name = " + "[" * 2000, r"is damaged or not a TOML file \(RecursionError"),
        ("name = " + "1" * 5000, r"is damaged or not a TOML file \(ValueError"),
        ("name = '" + "n" * (1 << 20) + "'", "at most 1,048,576 are read"),
        (SWEEP + 'out = "x"\n', "'out' stands at the top"),
        ("page = 3\n" + SWEEP, "page must be true or false, not 3"),
        ("defaults = 3\n" + SWEEP, r"tables by the names of benchmarks, \[defaults.NAME\]"),
        ("defaults.toy = 3\n" + SWEEP, "defaults must be tables by the names of benchmarks"),
        (SWEEP + "[defaults.tyo]\nseeds = [0]\n", r"\[defaults.tyo\] is of no use: no \[\[bench"),
        (SWEEP + '[defaults.toy]\nout = "x"\n', "'out' stands at the top"),
    ],
)
def test_sweeps_that_are_none(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(SweepError, match=words):
        read_sweep(write(tmp_path / "s.toml", text))


def test_parts_share_defaults(tmp_path: Path) -> None:
    text = """
        name = "n"
        out = "o"
        [defaults.toy]
        seeds = [0, 1]
        backbone = "b"
        source = "a"
        [defaults.toy.settings]
        lr = 0.1
        epochs = 3
        [[benchmark]]
        name = "toy"
        seeds = [2]
        [benchmark.settings]
        epochs = 4
        flip = true
        [[benchmark]]
        name = "other"
        [[benchmark]]
        name = "toy"
        [benchmark.backbone]
        depth = 10
    """
    first, other, last = read_sweep(write(tmp_path / "s.toml", text)).benchmarks
    common = {"name": "toy", "source": "a"}
    settings = {"lr": 0.1, "epochs": 4, "flip": True}  # joined
    assert first == common | {"seeds": [2], "backbone": "b", "settings": settings}
    assert other == {"name": "other"}
    assert last == common | {"seeds": [0, 1], "backbone": {"depth": 10}, "settings": {"lr": 0.1, "epochs": 3}}


def test_a_sweep_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SweepError, match=r"none\.toml cannot be read: No such file"):
        read_sweep(tmp_path / "none.toml")


def test_profile(tmp_path: Path) -> None:
    lines = ['partition = "gpu"', "minutes = 90", "gpus = 1", 'setup = ["module load cuda"]']
    text = "\n".join(["[profile.gpu]", *lines, "[profile.gpu.additional]", "requeue = false", 'licenses = "x"'])
    profile = read_profile(write(tmp_path / "p.toml", text), name="gpu")
    assert (profile.partition, profile.minutes, profile.gpus, profile.cpus) == ("gpu", 90, 1, 4)
    assert profile.setup == ("module load cuda",)
    assert profile.additional == {"requeue": False, "licenses": "x"}


def test_what_is_different_for_jobs_of_a_kind(tmp_path: Path) -> None:
    text = "[profile.gpu]\ngpus = 1\nnodes = 2\n[profile.gpu.backbone]\ngpus = 4\nminutes = 9\n"
    profile = read_profile(write(tmp_path / "p.toml", text), name="gpu")
    shapes = {kind: profile.of_kind(kind) for kind in ("backbone", "run")}
    assert {kind: (one.nodes, one.gpus, one.minutes) for kind, one in shapes.items()} == {
        "backbone": (2, 4, 9),
        "run": (1, 1, 240),
    }


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("minuts = 3", "unknown field, 'minuts'; known: partition, account"),
        ('minutes = "3"', "minutes must be a whole number, not '3'"),
        ("minutes = true", "minutes must be a whole number, not True"),
        ("minutes = 0", "minutes must be at least 1, not 0"),
        ("gpus = -1", "gpus must be at least 0, not -1"),
        ("partition = 3", "partition must be a text, not 3"),
        ('partition = ""', "partition must be one line of text"),
        ('account = "a\\n#SBATCH --x"', "account must be one line of text"),
        ('setup = "x"', "setup must be a list of shell lines"),
        ("setup = [3]", "setup must be a list of shell lines"),
        ("additional = 3", "additional must be a table"),
        ("kinds = {}", "unknown field, 'kinds'"),
        ("score = 3", "score must be a table of what is different for such jobs, not 3"),
        ("[profile.gpu.score]\nminuts = 3", r"\[profile\.gpu\.score\] has an unknown field, 'minuts'"),
    ],
)
def test_profiles_with_faults(tmp_path: Path, line: str, words: str) -> None:
    with pytest.raises(SweepError, match=words):
        read_profile(write(tmp_path / "p.toml", f"[profile.gpu]\n{line}\n"), name="gpu")


def test_profiles_that_are_not_there(tmp_path: Path) -> None:
    path = write(tmp_path / "p.toml", "[profile.gpu]\n[profile.cpu]\n")
    with pytest.raises(SweepError, match=r"no \[profile\.default\]; it has cpu, gpu"):
        read_profile(path, name="default")
    with pytest.raises(SweepError, match="it has no profile"):
        read_profile(write(path, ""), name="gpu")


def test_profiles_here_come_before_those_beside_the_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    sweep = tmp_path / "sweeps" / "s.toml"
    sweep.parent.mkdir()
    assert find_profile(None, file=None, beside=sweep) == Profile()
    write(sweep.parent / "profiles.toml", "[profile.default]\ncpus = 3\n")
    assert find_profile(None, file=None, beside=sweep).cpus == 3
    assert find_profile(None, file=None) == Profile()
    write(tmp_path / "here" / "profiles.toml", "[profile.default]\ncpus = 5\n")
    assert find_profile(None, file=None, beside=sweep).cpus == 5
    with pytest.raises(SweepError, match=r"nothing\.toml cannot be read"):
        find_profile(None, file=Path("nothing.toml"), beside=sweep)
