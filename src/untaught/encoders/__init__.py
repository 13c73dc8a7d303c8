"""Networks that turn a view into vectors: any timm model, and our few small ones for the CPU."""

ENCODERS: dict[str, tuple[str, str]] = {  # name -> ("module:function", what it is)
    "conv_small": ("untaught.encoders.conv_small:ConvSmall", "residual convolutions made for a CPU, any size and channels of picture"),
    "vit_mini": ("untaught.encoders.timm:vit_mini", "timm's ViT, 6 blocks of width 192, about 64 tokens a picture"),
    "timm/NAME": ("untaught.encoders.timm:timm_encoder", "any model of timm, by its name there; NAME may be local-dir:FOLDER"),
}
