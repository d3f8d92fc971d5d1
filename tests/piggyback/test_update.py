"""Compiled mask updates where the compiler does not work."""

import pytest
import torch
from torch import nn

import piggyback
from piggyback import update
from piggyback.errors import BadInput


def step(form: str) -> str:
    network = nn.Sequential(nn.Linear(8, 8), nn.ReLU())
    network.add_module("fc", nn.Linear(8, 2))
    adapter = piggyback.attach(network, method=piggyback.Binary(), head="fc")
    adapter.add_task("task", head=nn.Linear(8, 2))
    optimizer = adapter.optimizer(update=form)  # type: ignore[arg-type]
    network(torch.ones(2, 8)).sum().backward()
    optimizer.step()
    return optimizer.update_form()


def test_a_compiler_that_fails_is_tried_and_told_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tried = []

    def fail(*tensors: object) -> None:
        tried.append(tensors)
        raise RuntimeError("no compiler\nand forty lines more")

    monkeypatch.setattr(update, "FAILURES", {})
    monkeypatch.setattr(update, "compiled_kernel", lambda method: fail)
    assert [step("auto"), step("auto")] == ["eager", "eager"]
    assert len(tried) == 1
    assert capsys.readouterr().err.count("uncompiled, the compiler failed: no compiler\n") == 1
    with pytest.raises(BadInput, match=r"cannot be compiled: no compiler\. Install"):
        step("compiled")
