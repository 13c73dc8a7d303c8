"""MoCo v3's method and views in PyTorch Lightning, on handwritten digits: python examples/lightning.py"""

from __future__ import annotations

from typing import Any

import pytorch_lightning as lightning
import torch
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier
from torch.utils.data import DataLoader

import untaught as ut

EPOCHS, BATCH = 8, 128


class Pretraining(lightning.LightningModule):
    """Any method of untaught: its loss, and its hooks around the optimizer's step."""

    def __init__(self, method: ut.Method, views) -> None:
        super().__init__()
        self.method, self.views = method, views

    @property
    def progress(self) -> float:
        """Share of the training that is done, from 0 to 1."""
        return self.global_step / float(self.trainer.estimated_stepping_batches)

    def training_step(self, batch: dict[str, torch.Tensor], _: int) -> torch.Tensor:
        terms = self.method(self.views(batch, self.current_epoch), self.progress)
        self.log_dict({name: value.detach() for name, value in terms.items()})
        return torch.stack([term for term in terms.values() if term.requires_grad]).sum()

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        self.method.before_step(self.progress)

    def optimizer_step(self, *arguments, **options) -> None:
        progress = self.progress
        super().optimizer_step(*arguments, **options)
        self.method.after_step(progress)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW((p for p in self.method.parameters() if p.requires_grad), lr=2e-3)


def main() -> tuple[float, float]:
    """-> the kNN accuracy of the encoder as it begins, and as it is trained; without labels until then."""
    lightning.seed_everything(0)
    digits: Any = load_digits()
    images = torch.from_numpy(digits.images / 16 * 255).byte()[:, None]  # (1797,1,8,8)
    train, test = images[:1297], images[1297:]

    views = ut.views("image", train, method="mocov3", size=16)
    encoder = ut.wrap("conv_small", views, width=16)
    method = ut.methods.MoCoV3(encoder, views.facts(encoder, len(train)))

    def accuracy() -> float:
        """Of kNN on frozen features: the class of the nearest of the training images."""
        with torch.no_grad():
            seen, new = (encoder.eval()(views.used(part)).numpy() for part in (train, test))
        encoder.train()
        return float(KNeighborsClassifier(5).fit(seen, digits.target[:1297]).score(new, digits.target[1297:]))

    before = accuracy()
    data = views.decode(train)
    rows = [{key: value[i] for key, value in data.items()} for i in range(len(train))]
    loader = DataLoader(rows, BATCH, shuffle=True, drop_last=True)  # type: ignore[arg-type]
    quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    lightning.Trainer(max_epochs=EPOCHS, accelerator="cpu", **quiet).fit(Pretraining(method, views), loader)
    after = accuracy()
    print(f"kNN accuracy: random init {before:.1%}, trained {after:.1%}")
    return before, after


if __name__ == "__main__":
    main()
