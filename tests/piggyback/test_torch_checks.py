import subprocess
import sys

import pytest
import torch

from piggyback import torch_checks
from piggyback.numerics.update import MaskUpdate


def test_torch_is_there() -> None:
    assert [check.name for check in torch_checks.checks()] == ["torch", "compiler", "threads", "processor", "gpu"]
    assert torch_checks.check_torch().state == "ok"


def test_torchvision_of_another_torch_is_broken() -> None:
    look = "print([(one.name, one.state, one.found, one.advice) for one in checks()])"
    code = f"import sys; sys.modules['torchvision'] = None; from piggyback.torch_checks import checks; {look}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("[('torch', 'broken', 'does not import: import of torchvision halted;")
    assert "pip install --upgrade torch torchvision" in done.stdout
    assert done.stdout.count("broken") == 1


def test_an_old_torch_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "__version__", "2.9.1+cu128")
    assert torch_checks.check_torch().state == "broken"
    monkeypatch.setattr(torch, "__version__", "2.10.0")
    assert torch_checks.check_torch().state == "ok"


def test_a_mask_update_is_really_compiled() -> None:
    check = torch_checks.check_compiler()
    assert (check.state, check.found.split(" in ")[0]) == ("ok", "a mask update compiled")


def test_without_a_compiler_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: MaskUpdate, weight: object) -> None:
        raise RuntimeError("g++ not found\nlong story")

    monkeypatch.setattr(MaskUpdate, "_compile", fail)
    check = torch_checks.check_compiler()
    assert check.state == "note"
    assert check.found.endswith("g++ not found")


def test_a_compiler_that_computes_wrongly_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MaskUpdate, "_compile", lambda self, weight: lambda *tensors: None)
    assert torch_checks.check_compiler().state == "broken"
