import inspect
import subprocess
import sys

import pytest

import piggyback

LOOK = "; print(sorted({'torch', 'numpy'} & sys.modules.keys()))"


def loaded_after(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", f"import sys, piggyback; {code}{LOOK}"], capture_output=True, text=True, check=True
    ).stdout.strip()


def test_every_public_name_is_there() -> None:
    assert set(piggyback.__all__) == set(piggyback._HOME)
    assert len(piggyback.__all__) == len(set(piggyback.__all__))
    for name in piggyback.__all__:
        assert getattr(piggyback, name) is not None
    assert {"attach", "Adapter", "Binary", "METHODS", "read_payload"} <= set(piggyback.__all__)


def test_what_users_import_is_documented() -> None:
    for name in piggyback.__all__:
        thing = getattr(piggyback, name)
        if not callable(thing):  # METHODS, a mapping
            continue
        assert thing.__doc__, name
        ours = [kind for kind in getattr(thing, "__mro__", ()) if kind.__module__.startswith("piggyback")]
        functions = {key: value for kind in ours for key, value in vars(kind).items() if inspect.isfunction(value)}
        bare = [key for key, value in functions.items() if not key.startswith("_") and not value.__doc__]
        assert bare == [], name


def test_a_name_that_is_not_there() -> None:
    with pytest.raises(AttributeError, match="no 'Bniary'; it has AdamRule, Adapter, Binary"):
        getattr(piggyback, "Bniary")  # noqa: B009


def test_importing_the_package_loads_neither_torch_nor_numpy() -> None:
    """No ``--help`` may wait for torch, and the console command lives in this package."""
    assert loaded_after("pass") == "[]"
    assert loaded_after("piggyback.attach") == "['numpy', 'torch']"  # the control: the look finds them
