"""The pretext tasks: one paper per file, grouped as the field groups them.

`untaught.methods.MoCo` is a class, imported on first use; importing `untaught.methods` does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from untaught.surroundings import settle

if TYPE_CHECKING:  # for editors and type checkers; the table below is what counts
    from untaught.methods.adversarial.bigan import BiGAN as BiGAN
    from untaught.methods.autoregression.clm import CLM as CLM
    from untaught.methods.autoregression.forecasting import Forecasting as Forecasting
    from untaught.methods.autoregression.nepa import NEPA as NEPA
    from untaught.methods.autoregression.pixelcnn import PixelCNN as PixelCNN
    from untaught.methods.autoregression.pixelrnn import PixelRNN as PixelRNN
    from untaught.methods.clustering.deepcluster import DeepCluster as DeepCluster
    from untaught.methods.clustering.hubert import HuBERT as HuBERT
    from untaught.methods.clustering.swav import SwAV as SwAV
    from untaught.methods.contrastive.clip import CLIP as CLIP
    from untaught.methods.contrastive.cpc import CPC as CPC
    from untaught.methods.contrastive.dcl import DCL as DCL
    from untaught.methods.contrastive.deep_infomax import DeepInfoMax as DeepInfoMax
    from untaught.methods.contrastive.margin import Margin as Margin
    from untaught.methods.contrastive.moco import MoCo as MoCo
    from untaught.methods.contrastive.mocov3 import MoCoV3 as MoCoV3
    from untaught.methods.contrastive.nnclr import NNCLR as NNCLR
    from untaught.methods.contrastive.simclr import SimCLR as SimCLR
    from untaught.methods.contrastive.t_loss import TLoss as TLoss
    from untaught.methods.contrastive.ts2vec import TS2Vec as TS2Vec
    from untaught.methods.contrastive.wav2vec2 import Wav2Vec2 as Wav2Vec2
    from untaught.methods.decorrelation.barlow_twins import BarlowTwins as BarlowTwins
    from untaught.methods.decorrelation.lejepa import LeJEPA as LeJEPA
    from untaught.methods.decorrelation.vicreg import VICReg as VICReg
    from untaught.methods.decorrelation.vicregl import VICRegL as VICRegL
    from untaught.methods.decorrelation.w_mse import WMSE as WMSE
    from untaught.methods.distillation.byol import BYOL as BYOL
    from untaught.methods.distillation.data2vec import Data2Vec as Data2Vec
    from untaught.methods.distillation.dino import DINO as DINO
    from untaught.methods.distillation.dinov2 import DINOv2 as DINOv2
    from untaught.methods.distillation.feature_distillation import FeatureDistillation as FeatureDistillation
    from untaught.methods.distillation.gram import Gram as Gram
    from untaught.methods.distillation.ibot import IBOT as IBOT
    from untaught.methods.distillation.ijepa import IJEPA as IJEPA
    from untaught.methods.distillation.msn import MSN as MSN
    from untaught.methods.distillation.simsiam import SimSiam as SimSiam
    from untaught.methods.reconstruction.autoencoder import Autoencoder as Autoencoder
    from untaught.methods.reconstruction.colorization import Colorization as Colorization
    from untaught.methods.reconstruction.denoising import Denoising as Denoising
    from untaught.methods.reconstruction.discrete_vae import DiscreteVAE as DiscreteVAE
    from untaught.methods.reconstruction.inpainting import Inpainting as Inpainting
    from untaught.methods.reconstruction.mae import MAE as MAE
    from untaught.methods.reconstruction.mlm import MLM as MLM
    from untaught.methods.reconstruction.replaced_token import ReplacedToken as ReplacedToken
    from untaught.methods.reconstruction.seq2seq_denoising import Seq2SeqDenoising as Seq2SeqDenoising
    from untaught.methods.reconstruction.simmim import SimMIM as SimMIM
    from untaught.methods.reconstruction.tsdae import TSDAE as TSDAE
    from untaught.methods.reconstruction.vae import VAE as VAE
    from untaught.methods.reconstruction.vime import VIME as VIME
    from untaught.methods.relation.jigsaw import Jigsaw as Jigsaw
    from untaught.methods.relation.relative_patch import RelativePatch as RelativePatch
    from untaught.methods.relation.rotation import Rotation as Rotation

METHODS: dict[str, str] = {  # name -> "module:class", so that listing imports nothing
    "margin": "untaught.methods.contrastive.margin:Margin",
    "cpc": "untaught.methods.contrastive.cpc:CPC",
    "deep_infomax": "untaught.methods.contrastive.deep_infomax:DeepInfoMax",
    "simclr": "untaught.methods.contrastive.simclr:SimCLR",
    "moco": "untaught.methods.contrastive.moco:MoCo",
    "mocov3": "untaught.methods.contrastive.mocov3:MoCoV3",
    "nnclr": "untaught.methods.contrastive.nnclr:NNCLR",
    "dcl": "untaught.methods.contrastive.dcl:DCL",
    "clip": "untaught.methods.contrastive.clip:CLIP",
    "ts2vec": "untaught.methods.contrastive.ts2vec:TS2Vec",
    "t_loss": "untaught.methods.contrastive.t_loss:TLoss",
    "wav2vec2": "untaught.methods.contrastive.wav2vec2:Wav2Vec2",
    "byol": "untaught.methods.distillation.byol:BYOL",
    "dino": "untaught.methods.distillation.dino:DINO",
    "w_mse": "untaught.methods.decorrelation.w_mse:WMSE",
    "barlow_twins": "untaught.methods.decorrelation.barlow_twins:BarlowTwins",
    "simsiam": "untaught.methods.distillation.simsiam:SimSiam",
    "ibot": "untaught.methods.distillation.ibot:IBOT",
    "dinov2": "untaught.methods.distillation.dinov2:DINOv2",
    "ijepa": "untaught.methods.distillation.ijepa:IJEPA",
    "data2vec": "untaught.methods.distillation.data2vec:Data2Vec",
    "msn": "untaught.methods.distillation.msn:MSN",
    "feature_distillation": "untaught.methods.distillation.feature_distillation:FeatureDistillation",
    "gram": "untaught.methods.distillation.gram:Gram",
    "swav": "untaught.methods.clustering.swav:SwAV",
    "deepcluster": "untaught.methods.clustering.deepcluster:DeepCluster",
    "hubert": "untaught.methods.clustering.hubert:HuBERT",
    "vicreg": "untaught.methods.decorrelation.vicreg:VICReg",
    "vicregl": "untaught.methods.decorrelation.vicregl:VICRegL",
    "lejepa": "untaught.methods.decorrelation.lejepa:LeJEPA",
    "autoencoder": "untaught.methods.reconstruction.autoencoder:Autoencoder",
    "denoising": "untaught.methods.reconstruction.denoising:Denoising",
    "vae": "untaught.methods.reconstruction.vae:VAE",
    "vime": "untaught.methods.reconstruction.vime:VIME",
    "discrete_vae": "untaught.methods.reconstruction.discrete_vae:DiscreteVAE",
    "simmim": "untaught.methods.reconstruction.simmim:SimMIM",
    "inpainting": "untaught.methods.reconstruction.inpainting:Inpainting",
    "colorization": "untaught.methods.reconstruction.colorization:Colorization",
    "mae": "untaught.methods.reconstruction.mae:MAE",
    "mlm": "untaught.methods.reconstruction.mlm:MLM",
    "seq2seq_denoising": "untaught.methods.reconstruction.seq2seq_denoising:Seq2SeqDenoising",
    "replaced_token": "untaught.methods.reconstruction.replaced_token:ReplacedToken",
    "tsdae": "untaught.methods.reconstruction.tsdae:TSDAE",
    "relative_patch": "untaught.methods.relation.relative_patch:RelativePatch",
    "jigsaw": "untaught.methods.relation.jigsaw:Jigsaw",
    "rotation": "untaught.methods.relation.rotation:Rotation",
    "bigan": "untaught.methods.adversarial.bigan:BiGAN",
    "clm": "untaught.methods.autoregression.clm:CLM",
    "forecasting": "untaught.methods.autoregression.forecasting:Forecasting",
    "pixelrnn": "untaught.methods.autoregression.pixelrnn:PixelRNN",
    "nepa": "untaught.methods.autoregression.nepa:NEPA",
    "pixelcnn": "untaught.methods.autoregression.pixelcnn:PixelCNN",
}

_PLACES = {place.partition(":")[2]: place.partition(":")[0] for place in METHODS.values()}  # class -> module


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    settle()
    return getattr(importlib.import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_PLACES})
