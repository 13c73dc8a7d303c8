"""The command line on text, as a user runs it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command import Cli, Running

SMALL = ("--modality", "text", "encoder.width=32", "encoder.depth=1", "encoder.heads=2", "vocabulary=600", "length=32", "batch_size=8")


def well(done: Running) -> Running:
    assert done.code == 0, done.err
    return done


@pytest.fixture(scope="module")
def run(cli: Cli, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("text") / "run"
    well(cli("pretrain", "builtin:topics", *SMALL, "--method", "mlm", "steps=4", "--out", out))
    return out


def test_a_run_on_text_ends_with_encoder_model_and_page(run: Path) -> None:
    from transformers import AutoModel, AutoModelForMaskedLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(run / "method"), local_files_only=True)
    for cls, folder in ((AutoModel, "encoder"), (AutoModelForMaskedLM, "method")):
        model = cls.from_pretrained(str(run / folder), local_files_only=True)
        assert model.config.vocab_size == len(tokenizer)
    assert tokenizer.decode(tokenizer("A class definition.").input_ids, skip_special_tokens=True) == "A class definition."
    assert "builtin:topics" in (run / "report.html").read_text()


def test_masks_are_filled(run: Path, cli: Cli) -> None:
    said = json.loads(well(cli("predict", run, "The [MASK] of a [MASK]", "--json")).out)
    assert [row["mask"] for row in said] == [1] * 5 + [2] * 5
    assert all(0 <= row["probability"] <= 1 for row in said)
    assert "the text has no [MASK]" in cli("predict", run, "no mask").error
    assert "tokens, the model accepts 32" in cli("predict", run, "[MASK] " * 50).error


def test_a_run_on_text_goes_on(run: Path, cli: Cli) -> None:
    done = well(cli("pretrain", "--out", run, "--resume", "steps=6"))
    assert "resuming  from step 4 of 6" in done.err


def test_a_checkpoint_is_gone_on_with_and_its_run_needs_it_no_more(run: Path, cli: Cli, tmp_path: Path) -> None:
    began = (run / "method").rename(tmp_path / "checkpoint")
    lines = [f"the state {i} of the report is final" for i in range(60)]
    (tmp_path / "own.txt").write_text("\n".join(lines))
    arguments = ("--modality", "text", "--method", "mlm", "--encoder", f"transformers/{began}", "length=16", "batch_size=4", "steps=2")
    done = well(cli("pretrain", tmp_path / "own.txt", *arguments, "--out", tmp_path / "on"))
    assert "AutoModel.from_pretrained" in done.err
    assert (tmp_path / "on/encoder/tokenizer.json").read_bytes() == (began / "tokenizer.json").read_bytes()
    began.rename(run / "method")
    well(cli("embed", tmp_path / "on", tmp_path / "own.txt", "-o", tmp_path / "vectors.npy"))
    assert (tmp_path / "vectors.npy").stat().st_size == 128 + 60 * 32 * 4
    again = ("pretrain", tmp_path / "own.txt", "--modality", "text", "--encoder", f"transformers/{run}/method")
    long = cli(*again, "--method", "mlm", "length=64")
    assert "has 32 positions; give length=32 or less" in long.error
    causal = cli(*again, "--method", "clm", "length=16")
    assert "offers causal" in causal.error
    (run / "method/model.safetensors").rename(tmp_path / "weights")
    bare = cli(*again, "--method", "mlm", "length=16")
    assert "has no weights" in bare.error
    (tmp_path / "weights").rename(run / "method/model.safetensors")


def test_pictures_are_no_text(cli: Cli) -> None:
    assert "builtin:digits has no documents" in cli("pretrain", "builtin:digits", "--modality", "text", "--method", "mlm").error
    assert "MLM reads the view masked_tokens; image offers" in cli("pretrain", "builtin:digits", "--method", "mlm").error
    said = cli("pretrain", "builtin:topics", *SMALL, "--method", "cpc", "steps=1").error
    gpt = cli("pretrain", "builtin:topics", *SMALL, "--method", "mlm", "--encoder", "gpt", "steps=1").error
    assert "MLM needs an encoder that offers bidirectional" in gpt
    assert said.startswith("CPC on sequences needs an encoder that offers tokens and causal; LanguageEncoder offers")
    assert said.endswith("give --encoder patch_causal, of texts gpt")


def test_a_table_of_sentences_without_a_header(cli: Cli, tmp_path: Path) -> None:
    lines = [f"the state {i} of this report is final\t{i % 2}" for i in range(40)]
    (tmp_path / "sentences.tsv").write_text("\n".join(lines))
    asked = ("pretrain", tmp_path / "sentences.tsv", *SMALL, "--method", "mlm", "steps=1", "--out", tmp_path / "run")
    assert "its columns are column1, column2: give --columns text=NAME" in cli(*asked).error
    assert "40 documents" in well(cli(*asked, "--columns", "text=column1", "--label", "column2")).err
