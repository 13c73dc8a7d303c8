"""Objectives on text against the papers' equations in plain loops, and against transformers' own losses."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from toys import build, text_batch, text_prep, toy_language

from untaught.core import Method, View
from untaught.encoders.language import bart, bert, gpt
from untaught.methods.autoregression.clm import CLM
from untaught.methods.reconstruction.mlm import MLM
from untaught.methods.reconstruction.replaced_token import ReplacedToken, uniform
from untaught.methods.reconstruction.seq2seq_denoising import Seq2SeqDenoising
from untaught.methods.reconstruction.tsdae import TSDAE


def method_and_view(cls: Any, family: Any, **knobs: Any) -> tuple[Any, View]:
    torch.manual_seed(0)
    method, views, batch = build(cls, "text", toy_language(family), **knobs)
    return method.eval(), views(batch, 0)[0]


def surprise(scores: torch.Tensor, word: int) -> float:
    """-log of the share of a word among all, of scores (V,)."""
    found = [math.exp(score) for score in scores.double().tolist()]
    return -math.log(found[word] / sum(found))


# ------------------------------------------------------------------------------------------------------------ MLM, CLM


def test_mlm_is_the_mean_surprise_of_the_hidden_tokens() -> None:
    method, view = method_and_view(MLM, bert)
    assert view.mask is not None
    assert view.target is not None
    assert view.valid is not None
    scores = method.encoder.language.eval()(input_ids=view.x, attention_mask=view.valid.long()).logits
    each = [surprise(scores[i, t], int(view.target[i, t])) for i, t in view.mask.nonzero().tolist()]
    assert len(each) >= len(view.x)
    assert abs(method([view], 0.0)["masked_tokens"].item() - sum(each) / len(each)) < 1e-5


def test_mlm_is_transformers_loss() -> None:
    method, view = method_and_view(MLM, bert)
    assert view.mask is not None
    assert view.target is not None
    assert view.valid is not None
    labels = torch.where(view.mask, view.target, -100)
    model = method.encoder.language
    assert type(model).__name__ == "BertForMaskedLM"
    want = model.eval()(input_ids=view.x, attention_mask=view.valid.long(), labels=labels).loss
    found = method([view], 0.0)["masked_tokens"]
    torch.testing.assert_close(found, want)
    parameters = list(model.parameters())
    for own, other in zip(torch.autograd.grad(found, parameters), torch.autograd.grad(want, parameters), strict=True):
        torch.testing.assert_close(own, other, atol=1e-6, rtol=1e-4)


def test_clm_is_the_mean_surprise_of_the_next_tokens() -> None:
    method, view = method_and_view(CLM, gpt)
    batch = text_batch()
    scores = method.encoder.language.eval()(input_ids=batch["ids"].long(), attention_mask=batch["ids_valid"].long()).logits
    each = []
    for i, ids in enumerate(batch["ids"].tolist()):
        length = int(batch["ids_valid"][i].sum())
        each += [surprise(scores[i, t], ids[t + 1]) for t in range(length - 1)]
    assert abs(method([view], 0.0)["next_tokens"].item() - sum(each) / len(each)) < 1e-5


def test_clm_is_transformers_loss() -> None:
    method, view = method_and_view(CLM, gpt)
    batch = text_batch()
    ids, valid = batch["ids"].long(), batch["ids_valid"]
    model = method.encoder.language
    assert type(model).__name__ == "GPT2LMHeadModel"
    want = model.eval()(input_ids=ids, attention_mask=valid.long(), labels=torch.where(valid, ids, -100)).loss
    found = method([view], 0.0)["next_tokens"]
    torch.testing.assert_close(found, want)
    parameters = list(model.parameters())
    for own, other in zip(torch.autograd.grad(found, parameters), torch.autograd.grad(want, parameters), strict=True):
        torch.testing.assert_close(own, other, atol=1e-6, rtol=1e-4)


# ---------------------------------------------------------------------------------------------------------------- BART


def test_seq2seq_denoising_says_the_target_word_by_word() -> None:
    method, view = method_and_view(Seq2SeqDenoising, bart)
    assert view.target is not None
    assert view.valid is not None
    assert view.target_valid is not None
    model, start, each = method.encoder.language.eval(), text_prep().settings["special"]["sep"], []
    some = View(view.x[:4], view.valid[:4], target=view.target[:4], target_valid=view.target_valid[:4])
    for x, valid, target, real in list(zip(view.x, view.valid, view.target, view.target_valid, strict=True))[:4]:
        words = target[real].tolist()
        for t, word in enumerate(words):
            before = torch.tensor([[start, *words[:t]]])
            scores = model(input_ids=x[valid][None], decoder_input_ids=before).logits[0, -1]
            each.append(surprise(scores, word))
    assert abs(method([some], 0.0)["undamaged_tokens"].item() - sum(each) / len(each)) < 1e-5


def test_seq2seq_denoising_is_transformers_loss() -> None:
    method, view = method_and_view(Seq2SeqDenoising, bart)
    assert view.target is not None
    assert view.valid is not None
    assert view.target_valid is not None
    labels = torch.where(view.target_valid, view.target, -100)
    want = method.encoder.language.eval()(input_ids=view.x, attention_mask=view.valid.long(), labels=labels).loss
    torch.testing.assert_close(method([view], 0.0)["undamaged_tokens"], want)


# ------------------------------------------------------------------------------------------------------------- ELECTRA


@pytest.mark.parametrize("discrimination", [50.0, 7.0])
def test_replaced_token_is_the_papers_equations(discrimination: float) -> None:
    method, view = method_and_view(ReplacedToken, bert, discrimination=discrimination)
    assert view.mask is not None
    assert view.target is not None
    assert view.valid is not None
    assert view.meta is not None
    with torch.no_grad():  # two words that the generator says often, and so at times rightly
        common = view.target[view.mask].bincount().topk(2).indices
        method.words.output.bias[common] += 7
    mask = view.valid.long()
    scores = method.generator.language.eval()(input_ids=view.x, attention_mask=mask).logits
    unit = uniform(view, view.meta["places"].shape[1], 0)
    shown, generation = view.target.clone(), []
    for i, k in [(i, k) for i in range(len(view.x)) for k in range(unit.shape[1])]:
        t = int(view.meta["places"][i, k])
        if not view.mask[i, t]:
            continue
        generation.append(surprise(scores[i, t], int(view.target[i, t])))
        below = 0.0
        for word, share in enumerate(scores[i, t].double().softmax(0).tolist()):
            below += share
            if float(unit[i, k]) < below:
                shown[i, t] = word
                break
    assert len(generation) == view.mask.sum()
    assert 0.1 < float((shown == view.target)[view.mask].float().mean()) < 0.9, "a guess is right, another wrong"

    tokens = method.encoder.model(input_ids=shown, attention_mask=mask).last_hidden_state
    said = method.discriminator(tokens).squeeze(2).detach().double().sigmoid()
    discriminated = []
    for i, t in view.valid.nonzero().tolist():
        original = shown[i, t] == view.target[i, t]
        discriminated.append(-math.log(1 - said[i, t]) if original else -math.log(said[i, t]))
    terms = method([view], 0.0)
    assert abs(terms["generation"].item() - sum(generation) / len(generation)) < 1e-5
    assert abs(terms["discrimination"].item() - discrimination * sum(discriminated) / len(discriminated)) < 1e-4
    share = ((shown != view.target) & view.valid).sum() / view.valid.sum()
    torch.testing.assert_close(terms["replaced"], share)
    assert not terms["replaced"].requires_grad


def test_the_discriminator_asks_nothing_of_the_generator_but_the_embedding() -> None:
    method, view = method_and_view(ReplacedToken, bert)
    method([view], 0.0)["discrimination"].backward()
    assert {n for n, p in method.generator.named_parameters() if p.grad is not None} == {"model.embeddings.word_embeddings.weight"}
    method.zero_grad()
    method([view], 0.0)["generation"].backward()
    assert {n for n, p in method.encoder.named_parameters() if p.grad is not None} == {"model.embeddings.word_embeddings.weight"}


def test_words_are_drawn_anew_where_something_else_is_hidden() -> None:
    torch.manual_seed(0)
    _, views, batch = build(ReplacedToken, "text", toy_language(bert))
    first, again, later = views(batch, 0)[0], views(batch, 0)[0], views(batch, 1)[0]
    assert torch.equal(uniform(first, 3, 0), uniform(again, 3, 0))
    assert (uniform(first, 3, 0) != uniform(later, 3, 0)).all()
    assert len(uniform(first, 3, 0).unique()) == 3 * len(first.x)


# --------------------------------------------------------------------------------------------------------------- TSDAE


def test_tsdae_says_the_document_from_the_vector_word_by_word() -> None:
    method, view = method_and_view(TSDAE, bert)
    assert view.target is not None
    assert view.valid is not None
    assert view.target_valid is not None
    embedding, words = method.encoder.model.get_input_embeddings(), method.encoder.language.cls.predictions
    each = []
    for x, valid, target, real in list(zip(view.x, view.valid, view.target, view.target_valid, strict=True))[:5]:
        vector = method.encoder.model(input_ids=x[valid][None]).last_hidden_state.mean(1, keepdim=True)
        ids = target[real]
        for t in range(1, len(ids)):
            said = method.decoder(embedding(ids[None, :t]), vector)[0, -1]
            scores = F.linear(words.transform(said), embedding.weight, words.bias)
            each.append(surprise(scores, int(ids[t])))
    some = View(view.x[:5], view.valid[:5], target=view.target[:5], target_valid=view.target_valid[:5])
    assert abs(method([some], 0.0)["tokens"].item() - sum(each) / len(each)) < 1e-5


# -------------------------------------------------------------------------------------------------------------- publish


@pytest.mark.parametrize(
    ("cls", "family", "said"),
    [(MLM, bert, "BertForMaskedLM"), (CLM, gpt, "GPT2LMHeadModel"), (Seq2SeqDenoising, bart, "BartForConditionalGeneration")],
    ids=["mlm", "clm", "seq2seq_denoising"],
)
def test_what_is_published_is_the_trained_model_with_its_heads(cls: type[Method], family: Any, said: str) -> None:
    method, _ = method_and_view(cls, family)
    model = method.hf_model()
    assert type(model).__name__ == said
    assert {id(p) for p in model.parameters()} == {id(p) for p in method.parameters()}


def test_replaced_token_publishes_its_generator_and_tsdae_nothing() -> None:
    method, _ = method_and_view(ReplacedToken, bert)
    assert type(method.hf_model()).__name__ == "BertForMaskedLM"
    assert {id(p) for p in method.hf_model().parameters()} <= {id(p) for p in method.parameters()}
    assert method.exported()["encoder"] is method.encoder
    assert method_and_view(TSDAE, bert)[0].hf_model() is None
