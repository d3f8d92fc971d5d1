"""An adapted network in the hands of other packages: Lightning, accelerate, Hugging Face's Trainer, timm, peft.

Usage: python benchmarks/companions.py [PACKAGE ...]

None of them is a dependency.  Prints a line for each package that is installed: its version, and what was seen;
``docs/will-it-work.md`` has a copy.  Stops with a traceback where something is not as it should be.
"""

import contextlib
import importlib.metadata
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import piggyback
from piggyback import Adapter
from piggyback.optimizer import AdapterOptimizer
from piggyback.shell.errors import BadInput, NetworkChanged

GENERATOR: Final = torch.Generator().manual_seed(0)
INPUTS: Final = torch.randn(16, 3, 8, 8, generator=GENERATOR)
TARGETS: Final = torch.randint(0, 4, (16,), generator=GENERATOR)
TIMM: Final = ("resnet18", "mobilenetv3_small_050", "efficientnet_lite0", "convnext_atto", "vit_tiny_patch16_224")


def make_network() -> nn.Sequential:
    """A convolution, a batch norm, two linear layers."""
    torch.manual_seed(0)
    convolution = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(2))
    return nn.Sequential(convolution, nn.Flatten(), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 4)).eval()


def begin() -> tuple[Adapter, AdapterOptimizer]:
    """An adapter with a fresh task, and its optimizer."""
    adapter = piggyback.attach(make_network(), method=piggyback.Binary(), head="4")
    adapter.add_task("task", head=nn.Linear(16, 4))
    adapter.train()
    return adapter, adapter.optimizer(mask_lr=1e-2, head_lr=1e-2, update="eager")


def check(adapter: Adapter) -> float:
    """The share of masks that are zero, after a look that the task survives a switch and a file."""
    adapter.eval()
    expected = adapter.network(INPUTS)
    adapter.base()
    adapter.switch("task")
    assert torch.equal(adapter.network(INPUTS), expected)
    with tempfile.TemporaryDirectory() as folder:
        adapter.save(Path(folder) / "task.safetensors", task="task")
        other = piggyback.attach(make_network(), method=piggyback.Binary(), head="4")
        other.load(Path(folder) / "task.safetensors")
        assert torch.equal(other.network(INPUTS), expected)
    state = adapter.task("task")
    masks = [state.kept_of(name)["mask"].flatten() for name in adapter.anatomy.weights]
    zeros = 1 - torch.cat(masks).double().mean().item()
    assert 0.01 < zeros < 0.99, "masks did not move"
    return zeros


def same(one: Adapter, other: Adapter) -> bool:
    """Whether two adapters have trained to the same bits."""
    pairs = zip(one.network.state_dict().values(), other.network.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def try_lightning() -> str:
    """Automatic optimization, precisions, accumulation with clipping, resuming."""
    import lightning

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

    class Module(lightning.LightningModule):  # type: ignore[misc]
        def __init__(self, adapter: Adapter, optimizer: AdapterOptimizer) -> None:
            super().__init__()
            self.network = adapter.network
            object.__setattr__(self, "adapter", adapter)
            object.__setattr__(self, "made", optimizer)

        def train(self, mode: bool = True) -> "Module":
            super().train(mode)
            self.adapter.train(mode)
            return self

        def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
            return F.cross_entropy(self.network(batch[0]), batch[1])

        def configure_optimizers(self) -> dict[str, Any]:
            return {
                "optimizer": self.made,
                "lr_scheduler": torch.optim.lr_scheduler.CosineAnnealingLR(self.made, 40),
            }

    batches = DataLoader(TensorDataset(INPUTS, TARGETS), batch_size=8)
    quiet = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}

    def fit(adapter: Adapter, optimizer: AdapterOptimizer, epochs: int, start: Path | None = None, **more: Any) -> Any:
        with tempfile.TemporaryDirectory() as folder:
            trainer = lightning.Trainer(max_epochs=epochs, default_root_dir=folder, **quiet, **more)
            trainer.fit(Module(adapter, optimizer), batches, ckpt_path=start)
            return trainer

    seen = []
    for more in ({}, {"precision": "bf16-mixed"}, {"accumulate_grad_batches": 2, "gradient_clip_val": 1.0}):
        pair = begin()
        fit(*pair, epochs=6, **more)
        seen.append(f"{check(pair[0]):.0%}")
    with tempfile.TemporaryDirectory() as folder:
        whole, half, resumed = begin(), begin(), begin()
        fit(*whole, epochs=6)
        fit(*half, epochs=3).save_checkpoint(Path(folder) / "half.ckpt")
        fit(*resumed, epochs=6, start=Path(folder) / "half.ckpt")
    equal = same(whole[0], resumed[0])
    return f"zeros {', '.join(seen)} (plain, bf16, accumulated and clipped); resumed to the same bits: {equal}"


def try_accelerate() -> str:
    """Prepared network, optimizer and scheduler, in bf16, with accumulation."""
    import accelerate

    accelerator = accelerate.Accelerator(cpu=True, mixed_precision="bf16", gradient_accumulation_steps=2)
    adapter, optimizer = begin()
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 40)
    network, optimizer, schedule = accelerator.prepare(adapter.network, optimizer, schedule)
    for _ in range(20):
        with accelerator.accumulate(network):
            accelerator.backward(F.cross_entropy(network(INPUTS), TARGETS))
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
    assert accelerator.unwrap_model(network, keep_fp32_wrapper=False) is adapter.network
    merged = adapter.merged("task").eval()
    logits = merged(INPUTS)
    zeros = check(adapter)
    adapter.base()
    assert torch.equal(merged(INPUTS), logits)
    return f"zeros {zeros:.0%} (bf16, accumulated, clipped, scheduled)"


def try_transformers() -> str:
    """Hugging Face's Trainer: six epochs, and the last two again from a checkpoint."""
    import transformers

    class Model(nn.Module):
        def __init__(self, adapter: Adapter) -> None:
            super().__init__()
            self.network = adapter.network
            object.__setattr__(self, "adapter", adapter)

        def train(self, mode: bool = True) -> "Model":
            super().train(mode)
            self.adapter.train(mode)
            return self

        def forward(self, inputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
            logits = self.network(inputs)
            return {"loss": F.cross_entropy(logits, labels), "logits": logits}

    data = [{"inputs": INPUTS[row], "labels": int(TARGETS[row])} for row in range(len(INPUTS))]

    def fit(folder: str, start: str | None = None, optimizers: bool = True) -> Adapter:
        adapter, optimizer = begin()
        options = transformers.TrainingArguments(
            output_dir=folder,
            num_train_epochs=6,
            per_device_train_batch_size=8,
            save_strategy="epoch",
            use_cpu=True,
            report_to=[],
            disable_tqdm=True,
        )
        both = {"optimizers": (optimizer, None)} if optimizers else {}
        trainer = transformers.Trainer(model=Model(adapter), args=options, train_dataset=data, **both)
        with contextlib.redirect_stdout(sys.stderr):
            trainer.train(resume_from_checkpoint=start)
        return adapter

    with tempfile.TemporaryDirectory() as folder:
        whole = fit(folder)
        resumed = fit(folder, start=f"{folder}/checkpoint-8")
        own = fit(f"{folder}/own", optimizers=False)
        try:
            check(own)
        except NetworkChanged:
            refused = "refused"
        else:
            refused = "not noticed"
    return f"zeros {check(whole):.0%}; resumed to the same bits: {same(whole, resumed)}; its own optimizer is {refused}"


def try_timm() -> str:
    """Some families: a training with checkpointing, a switch, a file."""
    import timm

    seen = []
    for name in TIMM:
        options = {"img_size": 64} if name.startswith("vit") else {}
        torch.manual_seed(0)
        network = timm.create_model(name, num_classes=4, **options)
        slot = network.default_cfg["classifier"]
        network.set_grad_checkpointing()
        adapter = piggyback.attach(network, method=piggyback.Binary(), head=slot, norm="trained")
        adapter.add_task("task", head=nn.Linear(network.get_submodule(slot).in_features, 4))
        adapter.train()
        optimizer = adapter.optimizer(mask_lr=1e-2, update="eager")
        inputs = torch.randn(4, 3, 64, 64)
        for _ in range(3):
            optimizer.zero_grad()
            F.cross_entropy(network(inputs), TARGETS[:4]).backward()
            optimizer.step()
        adapter.eval()
        expected = network(inputs)
        adapter.base()
        adapter.switch("task")
        assert torch.equal(network(inputs), expected)
        seen.append(name)
    return f"{', '.join(seen)}: trained under set_grad_checkpointing(), switched away and back to the same bits"


def try_peft() -> str:
    """LoRA before attach and after it is refused; what peft has merged is a plain network."""
    import peft

    def add_lora(network: nn.Module) -> Any:
        return peft.get_peft_model(network, peft.LoraConfig(target_modules="2", r=2))

    adapter, optimizer = begin()
    network = add_lora(adapter.network)
    F.cross_entropy(network(INPUTS), TARGETS).backward()
    messages = []
    for attempt in (optimizer.step, lambda: piggyback.attach(network, method=piggyback.Binary())):
        try:
            attempt()
        except (NetworkChanged, BadInput):
            messages.append("refused")
        else:
            messages.append("not noticed")
    merged = add_lora(make_network()).merge_and_unload()
    piggyback.attach(merged, method=piggyback.Binary(), head="4").add_task("task", head=nn.Linear(16, 4))
    return f"LoRA after attach {messages[0]}, before attach {messages[1]}; attached after merge_and_unload()"


TRIALS: Final[dict[str, Callable[[], str]]] = {
    "lightning": try_lightning,
    "accelerate": try_accelerate,
    "transformers": try_transformers,
    "timm": try_timm,
    "peft": try_peft,
}


def main(names: list[str]) -> None:
    os.environ["HF_HUB_OFFLINE"] = "1"
    for name in names or TRIALS:
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            print(f"| {name} | not installed |")
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            print(f"| {name} {version} | {TRIALS[name]()} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
