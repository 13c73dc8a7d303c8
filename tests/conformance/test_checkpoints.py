"""Weights of others: prefixes that other code gave them, parts that are missing, positions behind padding, pickles."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import transformers
from torch import Tensor

from untaught.core import UserError
from untaught.encoders.language import language, positions
from untaught.encoders.timm import timm_encoder
from untaught.modalities.text import learn, plan

SMALL: dict[str, Any] = {"vocab_size": 100, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}


def named(prefix: str, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + key: value for key, value in weights.items()}


def drawn(seed: int) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    return timm.create_model("test_resnet", num_classes=10).state_dict()


MINE, OTHER = drawn(1), drawn(2)
FORMS: dict[str, tuple[dict[str, Any], str]] = {
    "plain": (MINE, ""),
    "moco": (
        {"state_dict": {**named("module.encoder_k.", OTHER), **named("module.encoder_q.", MINE), "module.queue": torch.ones(2)}},
        "encoder_q.",
    ),
    "mocov3": ({"state_dict": {**named("module.momentum_encoder.", OTHER), **named("module.base_encoder.", MINE)}}, "base_encoder."),
    "dino": ({"student": named("module.backbone.", OTHER), "teacher": named("backbone.", MINE), "epoch": 3}, "teacher.backbone."),
    "dino in one piece": ({**named("student.module.backbone.", OTHER), **named("teacher.backbone.", MINE)}, "teacher.backbone."),
    "lightning": ({"state_dict": named("model.", MINE), "global_step": 5}, "model."),
    "an encoder": (named("encoder.", MINE), "encoder."),
}


@pytest.mark.parametrize("form", FORMS)
def test_the_prefix_that_other_code_gave_is_taken_off_and_said(form: str, tmp_path: Path) -> None:
    found, prefix = FORMS[form]
    torch.save(found, tmp_path / "file.pth")
    encoder: Any = timm_encoder("test_resnet", size=96, weights=str(tmp_path / "file.pth"))
    for key, value in encoder.model.state_dict().items():
        assert torch.equal(value, MINE[key]), key
    assert encoder.note.endswith(f"tensors with prefix {prefix}") if prefix else encoder.note == ""


@pytest.mark.parametrize(
    ("found", "says"),
    [
        ({key: value for key, value in MINE.items() if not key.startswith("layer4")}, r"of the \d+ weights of timm/test_resnet; layer4"),
        (named("x.", {"a": torch.zeros(1)}), "has no weights of timm/test_resnet (found: x.a ...)"),
    ],
    ids=["a part", "others"],
)
def test_weights_that_are_not_all_there_are_refused(found: dict[str, Tensor], says: str, tmp_path: Path) -> None:
    torch.save(found, tmp_path / "file.pth")
    with pytest.raises(UserError, match=says if says.startswith("of the") else re.escape(says)):
        timm_encoder("test_resnet", size=96, weights=str(tmp_path / "file.pth"))


def config_of(family: str, **more: Any) -> Any:
    if family == "Bart":
        sizes = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
        return transformers.BartConfig(vocab_size=100, **sizes, encoder_ffn_dim=32, decoder_ffn_dim=32, **more)
    window = {"attention_window": 8} if family == "Longformer" else {}
    return getattr(transformers, f"{family}Config")(**SMALL, **window, **more)


@pytest.mark.parametrize("family", ["Bert", "Roberta", "XLMRoberta", "Camembert", "MPNet", "Longformer", "Bart", "Electra"])
def test_as_many_tokens_are_read_as_there_are_positions_and_no_more(family: str) -> None:
    """The model itself is the judge: it reads a text of so many tokens, and of one more it does not."""
    config = config_of(family, max_position_embeddings=26)
    most = positions(config)
    assert most is not None
    model = transformers.AutoModel.from_config(config).eval()
    body = model.get_encoder() if family == "Bart" else model
    ids = torch.full((1, most + 1), 7)
    with torch.no_grad():
        assert body(input_ids=ids[:, :most]).last_hidden_state.shape[1] == most
        if family != "Longformer":  # which pads to its window of itself
            with pytest.raises((IndexError, RuntimeError)):
                body(input_ids=ids)


def saved(folder: Path, model: Any) -> Path:
    model.save_pretrained(folder)
    return folder


GIVEN: dict[str, Any] = {"vocabulary": 100, "length": 16, "special": {"pad": 0}}


def test_a_body_that_is_not_in_the_checkpoint_is_refused_and_a_head_that_is_not_is_drawn(tmp_path: Path) -> None:
    model = transformers.BertForMaskedLM(transformers.BertConfig(**SMALL))
    body = saved(tmp_path / "body", model.bert)
    assert language(str(body), **GIVEN).width == 16
    heads = {key: value for key, value in model.state_dict().items() if key.startswith("cls.")}
    model.save_pretrained(tmp_path / "head", state_dict=heads)
    with pytest.raises(
        UserError, match=r"lacks \d+ of the model's \d+ weights \(.*\), which would be random; copy the complete checkpoint"
    ):
        language(str(tmp_path / "head"), **GIVEN)


def test_a_pickle_is_refused_with_the_way_to_safetensors(tmp_path: Path) -> None:
    saved(tmp_path, transformers.BertForMaskedLM(transformers.BertConfig(**SMALL)))
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(
        UserError, match=r"pytorch_model.bin, a pickle, .* AutoModelForMaskedLM as M; M.from_pretrained\(.*\).save_pretrained"
    ):
        language(str(tmp_path), **GIVEN)


def test_a_checkpoint_in_shards_is_read(tmp_path: Path) -> None:
    model = transformers.BertForMaskedLM(transformers.BertConfig(**SMALL))
    model.save_pretrained(tmp_path, max_shard_size="5KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    encoder: Any = language(str(tmp_path), **GIVEN)
    assert torch.equal(encoder.model.embeddings.word_embeddings.weight, model.bert.embeddings.word_embeddings.weight)


def test_a_checkpoint_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    saved(tmp_path, transformers.BertForMaskedLM(transformers.BertConfig(**SMALL)))
    records = [{"text": "a fox went to town"}]
    layout = plan(records, {"tokenizer": str(tmp_path)})
    with pytest.raises(UserError, match="has no tokenizer files"):
        learn(records, layout)


def test_a_tokenizer_of_special_tokens_alone_is_refused(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models

    tokenizer = Tokenizer(models.WordLevel({"[PAD]": 0, "[UNK]": 1, "[MASK]": 2}, unk_token="[UNK]"))
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    layout = plan([{"text": "a fox"}], {"tokenizer": str(tmp_path)})
    with pytest.raises(UserError, match="has only 3 tokens, including special ones"):
        learn([{"text": "a fox"}], layout)


def test_ids_with_gaps_count_up_to_the_largest(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models

    tokenizer = Tokenizer(models.WordLevel({"[PAD]": 0, "[UNK]": 1, "fox": 5, "town": 120}, unk_token="[UNK]"))
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    layout, _ = learn([{"text": "fox town"}], plan([{"text": "fox"}], {"tokenizer": str(tmp_path)}))
    assert layout["vocabulary"] == 121
    saved(tmp_path, transformers.BertForMaskedLM(transformers.BertConfig(**SMALL)))
    with pytest.raises(UserError, match="has a vocabulary of 100 tokens, but the tokenizer has 121"):
        language(str(tmp_path), **{**GIVEN, "vocabulary": layout["vocabulary"]})
