"""SimCLR, VICReg, MAE and DINO as lightly's own examples write them, on a folder of 32 x 32 images. peers_images.py runs it.

python benchmarks/lightly_images.py METHOD FOLDER OUT --batch 128 --steps 8 [--seconds 60] [--bf16]             (pip install lightly)

Of the examples (examples/pytorch of lightly 1.6): transforms, LightlyDataset, DataLoader, heads, losses, optimizers, learning
rates, momentum of the teacher. Not of them, since both sides must have the same: the encoder, MAE's decoder (ours) and 2 workers.
OUT/metrics.jsonl gets samples_per_second of each step (of the first from the first batch's arrival on), OUT/encoder.pt timm's weights.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import time
from pathlib import Path

import timm
import torch
from lightly.data import LightlyDataset
from lightly.loss import DINOLoss, NTXentLoss, VICRegLoss
from lightly.models import utils
from lightly.models.modules import MAEDecoderTIMM, MaskedVisionTransformerTIMM
from lightly.models.modules.heads import DINOProjectionHead, SimCLRProjectionHead, VICRegProjectionHead
from lightly.transforms.dino_transform import DINOTransform
from lightly.transforms.mae_transform import MAETransform
from lightly.transforms.simclr_transform import SimCLRTransform
from lightly.transforms.vicreg_transform import VICRegTransform
from lightly.utils.scheduler import cosine_schedule
from torch import Tensor, nn
from torch.utils.data import DataLoader

SIDE, LOCAL, EPOCHS = 32, 16, 10


def resnet18() -> nn.Module:
    network = timm.create_model("resnet18", num_classes=0)
    network.conv1, network.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    return network


def vit() -> nn.Module:
    small = {"patch_size": 4, "embed_dim": 192, "depth": 6, "num_heads": 3, "global_pool": "avg", "fc_norm": False}  # as vit_mini
    return timm.create_model("vit_tiny_patch16_224", img_size=SIDE, num_classes=0, dynamic_img_size=True, **small)


class Twins(nn.Module):
    """SimCLR and VICReg."""

    def __init__(self, head: nn.Module, criterion: nn.Module) -> None:
        super().__init__()
        self.backbone, self.head, self.criterion = resnet18(), head, criterion

    def forward(self, views: list[Tensor], epoch: int) -> Tensor:
        return self.criterion(*(self.head(self.backbone(view)) for view in views))


class SimCLR(Twins):
    transform = SimCLRTransform(input_size=SIDE, gaussian_blur=0.0)

    def __init__(self) -> None:
        super().__init__(SimCLRProjectionHead(512, 512, 128), NTXentLoss())

    def optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.06)


class VICReg(Twins):
    transform = VICRegTransform(input_size=SIDE)

    def __init__(self) -> None:
        super().__init__(VICRegProjectionHead(512, 2048, 2048, num_layers=2), VICRegLoss())

    def optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.06)


class MAE(nn.Module):
    transform = MAETransform(input_size=SIDE)

    def __init__(self) -> None:
        super().__init__()
        self.backbone = vit()
        self.masked = MaskedVisionTransformerTIMM(self.backbone)  # type: ignore[arg-type]
        self.decoder = MAEDecoderTIMM((SIDE // 4) ** 2, 4, embed_dim=192, decoder_embed_dim=96, decoder_depth=2, decoder_num_heads=3)
        self.criterion = nn.MSELoss()

    def forward(self, views: list[Tensor], epoch: int) -> Tensor:
        (images,) = views
        size = (len(images), self.masked.sequence_length)
        keep, hidden = utils.random_token_mask(size=size, mask_ratio=0.75, device=images.device)
        decoded = self.decoder.embed(self.masked.encode(images, idx_keep=keep))
        tokens = utils.repeat_token(self.decoder.mask_token, size)
        tokens = self.decoder.decode(utils.set_at_index(tokens, keep, decoded.type_as(tokens)))
        said = self.decoder.predict(utils.get_at_index(tokens, hidden))
        return self.criterion(said, utils.get_at_index(utils.patchify(images, 4), hidden - 1))  # without the class token

    def optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1.5e-4)


class DINO(nn.Module):
    transform = DINOTransform(global_crop_size=SIDE, local_crop_size=LOCAL)

    def __init__(self) -> None:
        super().__init__()
        self.student, self.student_head = vit(), DINOProjectionHead(192, 512, 64, 2048, freeze_last_layer=1)
        self.backbone, self.head = copy.deepcopy(self.student), DINOProjectionHead(192, 512, 64, 2048)  # the teacher, which is kept
        utils.deactivate_requires_grad(self.backbone)
        utils.deactivate_requires_grad(self.head)
        self.criterion = DINOLoss(output_dim=2048, warmup_teacher_temp_epochs=5)

    def forward(self, views: list[Tensor], epoch: int) -> Tensor:
        momentum = cosine_schedule(epoch, EPOCHS, 0.996, 1)
        utils.update_momentum(self.student, self.backbone, m=momentum)
        utils.update_momentum(self.student_head, self.head, m=momentum)
        taught = [self.head(self.backbone(view)) for view in views[:2]]
        said = [self.student_head(self.student(view)) for view in views]
        return self.criterion(taught, said, epoch=epoch)

    def optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.001)


MODELS = {"simclr": SimCLR, "vicreg": VICReg, "mae": MAE, "dino": DINO}


def train(asked: argparse.Namespace) -> None:
    model = MODELS[asked.method]()
    optimizer = model.optimizer()
    dataset = LightlyDataset(asked.folder, transform=model.transform)  # type: ignore[arg-type]
    loader = DataLoader(dataset, asked.batch, shuffle=True, drop_last=True, num_workers=2)  # type: ignore[arg-type]
    asked.out.mkdir(parents=True)
    began = last = 0.0
    epoch = steps = 0
    with open(asked.out / "metrics.jsonl", "w", buffering=1) as metrics:
        while True:
            for views, _, _ in loader:
                began = began or time.perf_counter()
                last = last or began
                with torch.autocast("cpu", torch.bfloat16, enabled=asked.bf16):
                    loss = model(views, epoch)
                loss.backward()
                if asked.method == "dino":
                    model.student_head.cancel_last_layer_gradients(current_epoch=epoch)
                optimizer.step()
                optimizer.zero_grad()
                now = time.perf_counter()
                metrics.write(json.dumps({"samples_per_second": asked.batch / (now - last)}) + "\n")
                last, steps = now, steps + 1
                if steps == asked.steps or (asked.seconds and now - began >= asked.seconds):
                    torch.save(model.backbone.state_dict(), asked.out / "encoder.pt")
                    os._exit(0)  # workers that are still ahead need not finish
            epoch += 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("method", choices=MODELS)
    parser.add_argument("folder")
    parser.add_argument("out", type=Path)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=0, help="0 is until --seconds are over")
    parser.add_argument("--seconds", type=float, default=0)
    parser.add_argument("--bf16", action="store_true")
    train(parser.parse_args())
