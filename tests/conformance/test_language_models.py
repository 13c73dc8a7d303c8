"""Language models compute here what they compute in transformers, whatever is made faster about it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from untaught.core import UserError, View
from untaught.encoders.language import IN_LAYERS, SUITED, LanguageEncoder, language

transformers = pytest.importorskip("transformers")

BERT: Any = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64}
LLAMA: Any = {**BERT, "num_key_value_heads": 2, "head_dim": 8}
LLAMAS = ("llama", "mistral", "qwen2", "qwen3")
BART = {"d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4}
SIZES: dict[str, Any] = {
    **dict.fromkeys(("bert", "roberta", "xlm-roberta", "camembert", "gpt_neox", "modernbert"), BERT),
    "electra": {**BERT, "embedding_size": 32},
    "distilbert": {"dim": 32, "n_layers": 3, "n_heads": 4, "hidden_dim": 64},
    "bart": {**BART, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64},
    "gpt2": {"n_embd": 32, "n_layer": 3, "n_head": 4},
    **dict.fromkeys(LLAMAS, LLAMA),
}
X = torch.randint(5, 100, (3, 20), generator=torch.Generator().manual_seed(0))
VALID = torch.arange(20) < torch.tensor([[20], [12], [5]])
AT = torch.tensor([[1, 19], [0, 11], [2, 4]])


def model(kind: str) -> Any:
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(kind, vocab_size=100, max_position_embeddings=24, pad_token_id=0, **SIZES[kind])
    head = "Seq2SeqLM" if kind == "bart" else "CausalLM" if kind in ("gpt2", "gpt_neox", *LLAMAS) else "MaskedLM"
    return getattr(transformers, f"AutoModelFor{head}").from_config(config).double().eval()


def said(encoder: LanguageEncoder, valid: Tensor | None) -> tuple[Tensor, Tensor]:
    """Valid tokens, and the gradient of the embedding by them."""
    tokens = encoder.features(View(X, valid), want=("tokens",)).tokens
    assert tokens is not None
    tokens = tokens if valid is None else tokens[valid]
    return tokens.detach(), torch.autograd.grad(tokens.pow(3).sum(), encoder.model.get_input_embeddings().weight)[0]


@pytest.mark.parametrize("kind", SUITED)
@pytest.mark.parametrize("valid", [None, VALID], ids=["whole", "padded"])
def test_what_is_made_faster_computes_the_same(kind: str, valid: Tensor | None) -> None:
    encoder = LanguageEncoder(model(kind))
    encoder.eval()
    if not torch.cuda.is_available():
        assert encoder.model.config._attn_implementation == "untaught"
    tokens, slope = said(encoder, valid)
    plain = LanguageEncoder(model(kind))
    plain._language, plain.model = [whole := model(kind)], whole.base_model  # without what was made faster
    whole.set_attn_implementation("eager")
    theirs, their_slope = said(plain, valid)
    torch.testing.assert_close(tokens, theirs, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(slope, their_slope, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", SUITED)
@pytest.mark.parametrize("valid", [None, VALID], ids=["whole", "padded"])
def test_tokens_at_some_places_are_those_of_all(kind: str, valid: Tensor | None) -> None:
    encoder = LanguageEncoder(model(kind))
    encoder.eval()
    every = encoder.features(View(X, valid), want=("tokens",)).tokens
    assert every is not None
    some = encoder.tokens_at(View(X, valid), AT)
    expected = every[torch.arange(3).unsqueeze(1), AT]
    torch.testing.assert_close(some, expected, rtol=1e-4, atol=1e-5)
    weights = list(encoder.model.parameters())
    ours, theirs = (torch.autograd.grad(part.pow(3).sum(), weights, allow_unused=True, retain_graph=True) for part in (some, expected))
    for mine, other in zip(ours, theirs, strict=True):
        assert (mine is None) == (other is None)
        if mine is not None:
            torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", IN_LAYERS)
def test_the_last_layer_is_worked_out_where_it_is_asked_for_alone(kind: str) -> None:
    encoder, rows = LanguageEncoder(model(kind)), []
    encoder.model.encoder.layer[-1].intermediate.register_forward_pre_hook(lambda module, given: rows.append(given[0].shape[1]))
    encoder.tokens_at(View(X), AT)
    assert rows == [AT.shape[1]]


@pytest.mark.parametrize("kind", SUITED)
def test_a_checkpoints_dropout_can_be_chosen(kind: str, tmp_path: Any) -> None:
    model(kind).float().save_pretrained(tmp_path)
    given: Any = {"vocabulary": 100, "length": 20, "special": {"pad": 0}}
    encoder: Any = language(str(tmp_path), **given, dropout=0.5)
    if kind not in LLAMAS:  # which have it in attention alone
        assert not torch.equal(encoder.train()(View(X)), encoder(View(X)))
    assert torch.equal(encoder.eval()(View(X)), encoder(View(X)))
    still: Any = language(str(tmp_path), **given, dropout=0.0)
    assert torch.equal(still.train()(View(X)), still(View(X)))
    with pytest.raises(UserError, match=r"dropout=1.0: must be a number from 0"):
        language(str(tmp_path), **given, dropout=1.0)
