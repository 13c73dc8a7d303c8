"""MoCo's method and views in a plain torch loop, on handwritten digits: python examples/plain_torch.py"""

from __future__ import annotations

from typing import Any

import torch
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier

import untaught as ut

EPOCHS, BATCH = 8, 128


def main() -> tuple[float, float]:
    """-> the kNN accuracy of the encoder as it begins, and as it is trained; without labels until then."""
    torch.manual_seed(0)
    digits: Any = load_digits()
    images = torch.from_numpy(digits.images / 16 * 255).byte()[:, None]  # (1797,1,8,8)
    train, test = images[:1297], images[1297:]

    views = ut.views("image", train, method="moco", size=16)
    encoder = ut.wrap("conv_small", views, width=16)
    method = ut.methods.MoCo(encoder, views.facts(encoder, len(train)), temperature=0.5)
    optimizer = torch.optim.AdamW((p for p in method.parameters() if p.requires_grad), lr=2e-3)

    def accuracy() -> float:
        """Of kNN on frozen features: the class of the nearest of the training images."""
        encoder.eval()
        with torch.no_grad():
            seen, new = (encoder(views.used(part)).numpy() for part in (train, test))
        encoder.train()
        return float(KNeighborsClassifier(5).fit(seen, digits.target[:1297]).score(new, digits.target[1297:]))

    before = accuracy()
    data = views.decode(train)  # once for all epochs; a slice is a batch
    steps = len(train) // BATCH
    for epoch in range(EPOCHS):
        for step, rows in enumerate(torch.randperm(len(train))[: steps * BATCH].split(BATCH)):
            progress = (epoch + step / steps) / EPOCHS  # from 0 to 1
            batch = {key: value[rows] for key, value in data.items()}
            terms = method(views(batch, epoch), progress)
            optimizer.zero_grad()
            torch.stack([term for term in terms.values() if term.requires_grad]).sum().backward()
            method.before_step(progress)
            optimizer.step()
            method.after_step(progress)
    after = accuracy()
    print(f"kNN accuracy: random init {before:.1%}, trained {after:.1%}")
    return before, after


if __name__ == "__main__":
    main()
