"""Transformers language models as encoders: small architectures at random init, or any checkpoint."""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from untaught.blocks.dropout import Dropout
from untaught.blocks.transformer import attention
from untaught.core import Encoder, Features, Options, UserError, View
from untaught.encoders.transformers import NO_CODE, check_complete, check_weights, library, or_fault
from untaught.ops.masking import take
from untaught.ranges import Few, Start, Width, in_range

CAUSAL = ("gpt2", "llama", "mistral", "qwen2", "qwen3", "gpt_neox", "opt", "gemma", "phi", "olmo2")
BEHIND_PADDING = (  # position ids start after the padding id, and max_position_embeddings includes those
    *("roberta", "xlm-roberta", "camembert", "xlm-roberta-xl", "roberta-prelayernorm", "mpnet", "longformer", "data2vec-text"),
    *("xmod", "ibert", "luke", "mluke", "esm", "markuplm", "bridgetower_text_model"),
)
IN_LAYERS = (
    "bert",
    "roberta",
    "xlm-roberta",
    "camembert",
)  # laid out as BERT: embeddings, then layers of query, key, value, output, intermediate, output
DROPOUTS = (  # names in configurations
    *("hidden_dropout_prob", "attention_probs_dropout_prob", "dropout", "attention_dropout", "embedding_dropout", "mlp_dropout"),
    *("resid_pdrop", "embd_pdrop", "attn_pdrop"),
)
PLAIN = ("sdpa", "untaught")  # attention implementations with boolean masks
SUITED = (*IN_LAYERS, "electra", "distilbert", "modernbert", "bart", "gpt2", "gpt_neox", "llama", "mistral", "qwen2", "qwen3")  # for ours
SPEECH = ("wav2vec2", "hubert")  # likewise


@in_range
def bert(
    *, vocabulary: int, length: int, special: Options, width: Width = 256, depth: Few = 4, heads: Few = 4, dropout: Start = 0.1
) -> Encoder:
    """BERT (Devlin et al. 2019) of this size at random init. ids (B,T) -> pooled (B, width), the mean over valid tokens."""
    _check(width, heads)
    config = library().BertConfig(
        **_shape(vocabulary, length, width, depth, heads, 4 * width),
        **dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob"), dropout),
        pad_token_id=special.get("pad"),
    )
    return LanguageEncoder(_random_init("AutoModelForMaskedLM", config))


@in_range
def modernbert(
    *, vocabulary: int, length: int, special: Options, width: Width = 256, depth: Few = 4, heads: Few = 4, dropout: Start = 0.0
) -> Encoder:
    """ModernBERT (Warner et al. 2024) of this size at random init. ids (B,T) -> pooled (B, width), the mean over valid tokens.

    Rotary positions, gated MLPs, pre-norm, no biases; every third layer attends to the full text, the others to 64 tokens on each side.
    """
    _check(width, heads)
    config = library().ModernBertConfig(
        **_shape(vocabulary, length, width, depth, heads, round(1.5 * width)),
        **dict.fromkeys(("embedding_dropout", "attention_dropout", "mlp_dropout"), dropout),
        **{f"{role}_token_id": special.get(role) for role in ("pad", "cls", "sep")},
        bos_token_id=special.get("cls"),
        eos_token_id=special.get("sep"),
    )
    return LanguageEncoder(_random_init("AutoModelForMaskedLM", config))


@in_range
def gpt(
    *, vocabulary: int, length: int, special: Options, width: Width = 256, depth: Few = 4, heads: Few = 4, dropout: Start = 0.0
) -> Encoder:
    """GPT-2 (Radford et al. 2019) of this size at random init. ids (B,T) -> pooled (B, width), the mean over valid tokens."""
    _check(width, heads)
    config = library().GPT2Config(
        vocab_size=vocabulary,
        n_positions=length,
        n_embd=width,
        n_layer=depth,
        n_head=heads,
        activation_function="gelu",  # exact, as in nanoGPT: the tanh approximation takes four times as long
        **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), dropout),
        bos_token_id=special.get("cls"),
        eos_token_id=special.get("sep"),
        pad_token_id=special.get("pad"),
        use_cache=False,
    )
    return LanguageEncoder(_random_init("AutoModelForCausalLM", config))


@in_range
def llama(
    *, vocabulary: int, length: int, special: Options, width: Width = 256, depth: Few = 4, heads: Few = 4, dropout: Start = 0.0
) -> Encoder:
    """Llama (Touvron et al. 2023) of this size at random init. ids (B,T) -> pooled (B, width), the mean over valid tokens.

    Rotary positions, gated MLPs, RMSNorm (pre-norm), no biases; `dropout` applies to attention only.
    """
    _check(width, heads)
    config = library().LlamaConfig(
        **_shape(vocabulary, length, width, depth, heads, 32 * round(8 * width / 3 / 32)),
        num_key_value_heads=heads,
        attention_dropout=dropout,
        pad_token_id=special.get("pad"),
        bos_token_id=special.get("cls"),
        eos_token_id=special.get("sep"),
        tie_word_embeddings=True,
        use_cache=False,
    )
    return LanguageEncoder(_random_init("AutoModelForCausalLM", config))


@in_range
def bart(
    *, vocabulary: int, length: int, special: Options, width: Width = 256, depth: Few = 3, heads: Few = 4, dropout: Start = 0.1
) -> Encoder:
    """BART (Lewis et al. 2020) of this size at random init, `depth` layers in encoder and decoder each. ids (B,T) -> pooled (B, width)."""
    _check(width, heads)
    config = library().BartConfig(
        vocab_size=vocabulary,
        max_position_embeddings=length,
        d_model=width,
        **dict.fromkeys(("encoder_layers", "decoder_layers"), depth),
        **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), heads),
        **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim"), 4 * width),
        dropout=dropout,
        attention_dropout=dropout,
        activation_dropout=0.0,
        bos_token_id=special.get("cls"),
        eos_token_id=special.get("sep"),
        pad_token_id=special.get("pad"),
        decoder_start_token_id=special.get("sep"),
        forced_eos_token_id=special.get("sep"),
        use_cache=False,
    )
    return LanguageEncoder(_random_init("AutoModelForSeq2SeqLM", config))


@in_range
def language(
    name: str, *, vocabulary: int, length: int, special: Options, pretrained: bool = True, dropout: Start | None = None
) -> Encoder:
    """The language model `name`, a folder or a name on the Hugging Face hub, with its weights or at random init. dropout: the model's
    if none.

    Raises UserError if the tokenizer has more tokens than its vocabulary, or if the length exceeds its positions.
    """
    config = or_fault(name, lambda: library().AutoConfig.from_pretrained(name, **NO_CODE))
    if (size := getattr(config, "vocab_size", vocabulary)) < vocabulary:
        raise UserError(
            f"transformers/{name} has a vocabulary of {size:,} tokens, but the tokenizer has {vocabulary:,}; use the model's own tokenizer"
        )
    if length > (most := positions(config) or length):
        raise UserError(f"length={length}: transformers/{name} has {most} positions; give length={most} or less")
    kind = (
        "AutoModelForSeq2SeqLM"
        if getattr(config, "is_encoder_decoder", False)
        else "AutoModelForCausalLM"
        if config.model_type in CAUSAL
        else "AutoModelForMaskedLM"
    )
    if hasattr(config, "use_cache"):
        config.use_cache = False
    if dropout is not None:
        for key in DROPOUTS:
            if hasattr(config, key):
                setattr(config, key, dropout)
    if not pretrained:
        return LanguageEncoder(_random_init(kind, config))
    check_weights(name, kind)
    load = getattr(library(), kind).from_pretrained
    model, info = or_fault(name, lambda: load(name, config=config, use_safetensors=True, output_loading_info=True, **NO_CODE))
    check_complete(name, model, info["missing_keys"])
    return LanguageEncoder(model)


def positions(config: Any) -> int | None:
    """The number of positions of a model; None if it has no position table."""
    most = getattr(config, "max_position_embeddings", None)
    return most - first_position(config) if most else None


def first_position(config: Any) -> int:
    """The row of the position table used by the first token."""
    if config.model_type not in BEHIND_PADDING or getattr(config, "position_embedding_type", "absolute") == "rotary":
        return 0
    padding = 1 if config.model_type == "mpnet" else getattr(config, "pad_token_id", None)  # hard-coded in the library
    return 1 + (1 if padding is None else padding)


class Words(nn.Module):
    """The head of a language model: tokens -> logits over the vocabulary, with weights tied to the embedding if the model ties them."""

    offset: Tensor | None

    def __init__(self, transform: nn.Module | None, output: nn.Module, offset: Tensor | None = None) -> None:
        super().__init__()
        self.transform, self.output = transform, output
        self.register_buffer("offset", offset, persistent=False)  # moves with the module; saved by the model, not here

    def parts(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """tokens (...,D) -> inputs of the output layer (...,E), its weight (V,E), and bias (V,) or None."""
        hidden = tokens if self.transform is None else self.transform(tokens)
        return hidden, self.output.weight, getattr(self.output, "bias", None) if self.offset is None else self.offset  # type: ignore[return-value]

    def forward(self, tokens: Tensor) -> Tensor:
        return F.linear(*self.parts(tokens))


class _Transform(nn.Module):
    """The transform in RoBERTa's and DistilBERT's heads, which have it in separate layers."""

    def __init__(self, dense: nn.Module, norm: nn.Module) -> None:
        super().__init__()
        self.dense, self.layer_norm = dense, norm

    def forward(self, x: Tensor) -> Tensor:
        return self.layer_norm(F.gelu(self.dense(x)))


class LanguageEncoder(Encoder):
    """ids (B,T) int64, valid (B,T) -> pooled (B,D), the mean over valid tokens; tokens and layers (B,T,D).

    `language` is the full transformers model including its head; `model` is its body. The head is trained only by methods that use
    `words`.
    """

    layered = True

    def __init__(self, language: Any) -> None:
        super().__init__()
        config = language.config
        suit(language)
        self._language = [language]  # in a list, so that the head is not a submodule
        self.model: Any = language.base_model
        self.seq2seq = bool(getattr(config, "is_encoder_decoder", False))
        self.causal = not self.seq2seq and config.model_type in CAUSAL
        self.width = int(config.hidden_size)
        own = {"causal": self.causal, "bidirectional": not self.causal, "decoder": self.seq2seq}
        self.offers = frozenset({"tokens", "layers", "words", "any_size"} | {name for name, can in own.items() if can})
        if getattr(self.model, "pooler", None) is not None:
            self.model.pooler = None

    @property
    def language(self) -> Any:
        return self._language[0]

    def foreign_config(self) -> Options:
        """The config.json entries for transformers' AutoModel."""
        return {**self.model.config.to_diff_dict(), "architectures": [type(self.model).__name__]}

    def features(self, view: View, want: tuple[str, ...] = ("pooled",)) -> Features:
        body = self.model.get_encoder() if self.seq2seq else self.model
        mask = None if view.valid is None else view.valid.long()
        found = body(input_ids=view.x, attention_mask=mask, output_hidden_states="layers" in want)
        return self._given(found, view.valid, want)

    def embed(self, view: View) -> tuple[Tensor, Tensor | None]:
        return self.model.get_input_embeddings()(view.x), view.valid

    def context(
        self,
        tokens: Tensor,
        valid: Tensor | None = None,
        at: Tensor | None = None,
        causal: bool = False,
        want: tuple[str, ...] = ("tokens",),
    ) -> Features:
        if causal and not self.causal:
            raise UserError("this language model is bidirectional; causal methods need a decoder such as gpt")
        body = self.model.get_encoder() if self.seq2seq else self.model
        places = {}
        if at is not None and self.seq2seq:
            table = getattr(body, "embed_positions", None)
            if not isinstance(table, nn.Embedding):
                raise UserError(f"transformers' {type(self.model).__name__} does not support positions for a subset of tokens")
            usual, behind = torch.arange(at.shape[1], device=at.device), getattr(table, "offset", 0)
            tokens = tokens + F.embedding(at + behind, table.weight) - F.embedding(usual + behind, table.weight)
        elif at is not None:
            places = {"position_ids": at + first_position(self.model.config)}
        mask = None if valid is None else valid.long()
        found = body(inputs_embeds=tokens, attention_mask=mask, output_hidden_states="layers" in want, **places)
        return self._given(found, valid, want)

    def _given(self, found: Any, valid: Tensor | None, want: tuple[str, ...]) -> Features:
        tokens = found.last_hidden_state
        pooled = None
        if "pooled" in want:
            pooled = tokens.mean(1) if valid is None else (tokens * valid.unsqueeze(2)).sum(1) / valid.sum(1, keepdim=True).clamp(min=1)
        layers = list(found.hidden_states[1:]) if "layers" in want else None
        return Features(pooled=pooled, tokens=tokens if "tokens" in want else None, valid=valid, layers=layers)

    def tokens_at(self, view: View, at: Tensor) -> Tensor:
        """For models laid out as BERT, the last layer is computed at these places only."""
        config = self.model.config
        if config.model_type not in IN_LAYERS or config._attn_implementation not in PLAIN:
            return super().tokens_at(view, at)
        tokens = self.model.embeddings(input_ids=view.x)
        mask = None if view.valid is None else view.valid[:, None, None, :].expand(-1, -1, view.x.shape[1], -1)
        *layers, last = self.model.encoder.layer
        for layer in layers:
            out = layer(tokens, mask)
            tokens = out[0] if isinstance(out, tuple) else out
        inner, some = last.attention.self, take(tokens, at)
        q, k, v = (
            part(inputs).unflatten(-1, (inner.num_attention_heads, -1)).transpose(1, 2)
            for part, inputs in ((inner.query, some), (inner.key, tokens), (inner.value, tokens))
        )
        dropout = inner.dropout.p if self.training else 0.0
        read = attention(q, k, v, None if mask is None else mask[:, :, :1], dropout).transpose(1, 2).flatten(2)
        some = last.attention.output(read, some)
        return last.output(last.intermediate(some), some)

    def grid(self, view: View) -> tuple[int, ...]:
        return (view.x.shape[1],)

    def words(self) -> nn.Module:
        model = self.language
        if hasattr(model, "cls") and hasattr(model.cls, "predictions"):
            head = model.cls.predictions
            return Words(head.transform, head.decoder)
        if hasattr(model, "vocab_projector"):
            return Words(_Transform(model.vocab_transform, model.vocab_layer_norm), model.vocab_projector)
        if hasattr(model, "lm_head") and hasattr(model.lm_head, "dense"):
            return Words(_Transform(model.lm_head.dense, model.lm_head.layer_norm), model.lm_head.decoder)
        if hasattr(model, "head") and hasattr(model, "decoder"):
            return Words(model.head, model.decoder)
        if isinstance(getattr(model, "lm_head", None), nn.Linear):
            offset = getattr(model, "final_logits_bias", None)
            return Words(None, model.lm_head, None if offset is None else offset.flatten())
        raise UserError(f"the head of transformers' {type(model).__name__} is not supported for training")

    def shallower(self, share: float) -> Encoder:
        if self.seq2seq:
            raise UserError(f"transformers' {type(self.model).__name__} is an encoder-decoder; this method needs an encoder such as bert")
        config = copy.deepcopy(self.language.config)
        layers, fewer = config.num_hidden_layers, max(1, round(share * config.num_hidden_layers))
        config.num_hidden_layers = fewer
        if len(getattr(config, "layer_types", None) or ()) == layers:  # ModernBERT and others; validated on saving
            config.layer_types = config.layer_types[:fewer]
        smaller = type(self.language)(config)
        smaller.set_input_embeddings(self.model.get_input_embeddings())
        smaller.tie_weights()
        return LanguageEncoder(smaller)

    @property
    def start(self) -> int:
        return int(self.model.config.decoder_start_token_id)

    def decode(self, ids: Tensor, memory: Tensor, memory_valid: Tensor | None = None) -> Tensor:
        mask = None if memory_valid is None else memory_valid.long()
        return self.model.get_decoder()(input_ids=ids, encoder_hidden_states=memory, encoder_attention_mask=mask).last_hidden_state


def suit(language: Any) -> None:
    """Replaces operations by equivalent, faster ones: fused tanh GELU, dropout, and (on a CPU) attention by plain matrix products."""
    for module in list(language.modules()):
        for name, part in module.named_children():
            if type(part).__name__ == "NewGELUActivation":
                setattr(module, name, nn.GELU("tanh"))
            elif type(part) is nn.Dropout:
                setattr(module, name, Dropout(part.p))
    hub, config = library(), language.config
    if torch.cuda.is_available() or config.model_type not in (*SUITED, *SPEECH) or not hasattr(hub, "AttentionMaskInterface"):
        return
    if config._attn_implementation != "sdpa":  # the user's own choice
        return
    from transformers.masking_utils import sdpa_mask

    hub.AttentionInterface.register("untaught", _attend)
    hub.AttentionMaskInterface.register("untaught", sdpa_mask)
    language.set_attn_implementation("untaught")


def _attend(
    module: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float = 0.0, scaling: float | None = None, **more: Any
) -> tuple[Tensor, None]:
    """Attention with transformers' interface: q (B,H,N,D), k and v (B,G,M,D), each shared by H/G heads -> (B,N,H,D)."""
    k, v = (part.repeat_interleave(q.shape[1] // part.shape[1], 1) if part.shape[1] < q.shape[1] else part for part in (k, v))
    causal = more.get("is_causal")
    causal = getattr(module, "is_causal", True) if causal is None else causal
    return attention(q, k, v, mask, dropout, bool(causal) and q.shape[2] > 1, scaling).transpose(1, 2), None


def _random_init(kind: str, config: Any) -> Any:
    return getattr(library(), kind).from_config(config)


def _check(width: int, heads: int) -> None:
    if width % heads:
        raise UserError(f"encoder.width={width}: must be a multiple of its {heads} heads")


def _shape(vocabulary: int, length: int, width: int, depth: int, heads: int, inner: int) -> Options:
    return {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "num_hidden_layers": depth,
        "num_attention_heads": heads,
        "intermediate_size": inner,
        "max_position_embeddings": length,
    }
