"""Networks that turn a view into vectors: any model of timm and transformers, and a few small ones for the CPU."""

ENCODERS: dict[str, tuple[str, str]] = {  # name -> ("module:function", what it is)
    "conv_small": ("untaught.encoders.conv_small:ConvSmall", "residual convolutions made for a CPU, any size and channels of image"),
    "vit_mini": ("untaught.encoders.timm:vit_mini", "timm's ViT, 6 blocks of width 192, about 64 tokens an image"),
    "timm/NAME": ("untaught.encoders.timm:timm_encoder", "any model of timm, by its name there; NAME may be local-dir:FOLDER"),
    "bert": ("untaught.encoders.language:bert", "transformers' BERT, 4 blocks of width 256, for text"),
    "modernbert": ("untaught.encoders.language:modernbert", "transformers' ModernBERT, 4 blocks of width 256, for text; rotary positions"),
    "gpt": ("untaught.encoders.language:gpt", "transformers' GPT-2, 4 blocks of width 256, for text; each token sees those before it"),
    "llama": ("untaught.encoders.language:llama", "transformers' Llama, 4 blocks of width 256, for text; gpt's task, rotary positions"),
    "bart": ("untaught.encoders.language:bart", "transformers' BART, 3 + 3 blocks of width 256, for text; encoder and decoder"),
    "conv_series": ("untaught.encoders.conv_series:ConvSeries", "dilated convolutions over time, for series of any length"),
    "patch_series": ("untaught.encoders.patch_series:PatchSeries", "a transformer of 4 blocks whose tokens are patches of a series"),
    "transformers/NAME": ("untaught.encoders.language:language", "any language model of transformers, by a folder or its name on the hub"),
}
