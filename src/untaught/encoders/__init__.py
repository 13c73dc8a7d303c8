"""Networks that turn a view into vectors: any timm or transformers model, and a few small ones for CPUs."""

ENCODERS: dict[str, tuple[str, str]] = {  # name -> ("module:function", description)
    "conv_small": ("untaught.encoders.conv_small:ConvSmall", "residual convolutions for CPUs, images of any size and number of channels"),
    "vit_mini": ("untaught.encoders.timm:vit_mini", "timm's ViT, 6 blocks of width 192, about 64 tokens per image"),
    "vit_causal": ("untaught.encoders.timm:vit_causal", "vit_mini in which each token attends to itself and those before, row by row"),
    "timm/NAME": ("untaught.encoders.timm:timm_encoder", "any timm model by name, of sequences in windows; NAME may be local-dir:FOLDER"),
    "pixelcnn": (
        "untaught.encoders.pixelcnn:PixelCNN",
        "gated causal convolutions, for densities of images of any size",
    ),
    "pixelrnn": ("untaught.encoders.pixelrnn:PixelRNN", "diagonal LSTMs, for densities of images of any size"),
    "bert": ("untaught.encoders.language:bert", "transformers' BERT, 4 blocks of width 256, for text"),
    "modernbert": ("untaught.encoders.language:modernbert", "transformers' ModernBERT, 4 blocks of width 256, for text; rotary positions"),
    "gpt": ("untaught.encoders.language:gpt", "transformers' GPT-2, 4 blocks of width 256, for text; causal"),
    "llama": ("untaught.encoders.language:llama", "transformers' Llama, 4 blocks of width 256, for text; causal, rotary positions"),
    "bart": ("untaught.encoders.language:bart", "transformers' BART, 3 + 3 blocks of width 256, for text; encoder and decoder"),
    "sasrec": ("untaught.encoders.event_transformer:sasrec", "a transformer with 2 blocks of width 64 on items of events; causal"),
    "bert4rec": (
        "untaught.encoders.event_transformer:bert4rec",
        "a transformer with 2 blocks of width 64 on items of events; bidirectional",
    ),
    "mlp": ("untaught.encoders.mlp:Mlp", "linear layers with BatchNorm and ReLU on a sample's numbers"),
    "mlp_table": ("untaught.encoders.table:MlpTable", "4 linear layers of width 256, for rows of a table"),
    "resnet_table": ("untaught.encoders.table:ResNetTable", "a residual MLP with 3 blocks, for rows of a table"),
    "ft_transformer": ("untaught.encoders.table:FTTransformer", "a transformer with 3 blocks on the features of a table's row"),
    "conv_series": ("untaught.encoders.conv_series:ConvSeries", "dilated convolutions over time, for series of any length"),
    "ts2vec": ("untaught.encoders.conv_series:ts2vec", "conv_series at TS2Vec's size: 11 blocks, width 320"),
    "patch_series": ("untaught.encoders.patch_series:PatchSeries", "a transformer with 4 blocks on patches of a series"),
    "patch_causal": ("untaught.encoders.patch_series:patch_causal", "patch_series in which a token attends to itself and those before"),
    "conv_mel": ("untaught.encoders.conv_mel:ConvMel", "residual convolutions on log-mel spectrograms of any length"),
    "wav2vec2": ("untaught.encoders.speech:wav2vec2", "transformers' wav2vec 2.0, 4 blocks of width 256, for waveforms"),
    "hubert": ("untaught.encoders.speech:hubert", "transformers' HuBERT, 4 blocks of width 256, for waveforms"),
    "transformers/NAME": (
        "untaught.encoders.checkpoints:checkpoint",
        "any language model of transformers, wav2vec 2.0, HuBERT or WavLM, by folder or by name on the hub",
    ),
}
