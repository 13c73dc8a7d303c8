"""VICReg's method and views in the Trainer of transformers, on handwritten digits: python examples/transformers_trainer.py"""

from __future__ import annotations

import tempfile
from typing import Any

import torch
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier
from transformers import Trainer, TrainerCallback, TrainingArguments

import untaught as ut

EPOCHS, BATCH = 8, 128


class Pretraining(torch.nn.Module):
    """Any method of untaught as the Trainer calls a model: tensors by name -> the loss."""

    def __init__(self, method: ut.Method, views) -> None:
        super().__init__()
        self.method, self.views = method, views
        self.epoch, self.progress = 0, 0.0

    def forward(self, **batch: torch.Tensor) -> dict[str, torch.Tensor]:
        terms = self.method(self.views(batch, self.epoch), self.progress)
        return {"loss": torch.stack([term for term in terms.values() if term.requires_grad]).sum()}


class Hooks(TrainerCallback):
    """The method's hooks around the optimizer's step, and how far the training is."""

    def on_step_begin(self, args, state, control, model: Any = None, **_) -> None:
        model.epoch, model.progress = int(state.epoch or 0), state.global_step / state.max_steps

    def on_pre_optimizer_step(self, args, state, control, model: Any = None, **_) -> None:
        model.method.before_step(model.progress)

    def on_optimizer_step(self, args, state, control, model: Any = None, **_) -> None:
        model.method.after_step(model.progress)


def main() -> tuple[float, float]:
    """-> the kNN accuracy of the encoder as it begins, and as it is trained; without labels until then."""
    torch.manual_seed(0)
    digits: Any = load_digits()
    images = torch.from_numpy(digits.images / 16 * 255).byte()[:, None]  # (1797,1,8,8)
    train, test = images[:1297], images[1297:]

    views = ut.views("image", train, method="vicreg", size=16)
    encoder = ut.wrap("conv_small", views, width=16)
    method = ut.methods.VICReg(encoder, views.facts(encoder, len(train)))

    def accuracy() -> float:
        """Of kNN on frozen features: the class of the nearest of the training images."""
        with torch.no_grad():
            seen, new = (encoder.eval()(views.used(part)).numpy() for part in (train, test))
        encoder.train()
        return float(KNeighborsClassifier(5).fit(seen, digits.target[:1297]).score(new, digits.target[1297:]))

    before = accuracy()
    data = views.decode(train)
    rows = [{key: value[i] for key, value in data.items()} for i in range(len(train))]
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, num_train_epochs=EPOCHS, per_device_train_batch_size=BATCH, learning_rate=2e-3, dataloader_drop_last=True,
            remove_unused_columns=False, save_strategy="no", report_to="none", disable_tqdm=True, use_cpu=True, seed=0,
        )  # fmt: skip
        Trainer(Pretraining(method, views), arguments, train_dataset=rows, callbacks=[Hooks()]).train()  # type: ignore[arg-type]
    after = accuracy()
    print(f"kNN accuracy: random init {before:.1%}, trained {after:.1%}")
    return before, after


if __name__ == "__main__":
    main()
