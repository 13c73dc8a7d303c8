"""Generation with a pretrained language model: fills masks, continues a prompt, restores a corrupted text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from untaught.core import UserError
from untaught.encoders.offline import offline
from untaught.ranges import Few, Seed, Size, Within, in_range
from untaught.storage.finite import check_finite_weights
from untaught.storage.safe_open import checked_folder

FOLDER = "method"  # in a run folder: the model with its heads, in transformers' format


def can_generate(run: Path) -> bool:
    """Whether a run folder holds a language model."""
    return (run / FOLDER / "config.json").exists()


def names_data(text: str) -> bool:
    """Whether this names data rather than being a text."""
    try:
        return text.startswith(("builtin:", "hf:")) or Path(text).exists()
    except OSError:  # too long for a name
        return False


@in_range
def generate(
    run: Path,
    text: str,
    *,
    tokens: Size = 60,
    temperature: Annotated[float, Within(0, 100)] = 0.8,
    top_p: Annotated[float, Within(1e-6, 1)] = 0.95,
    seed: Seed = 0,
    best: Few = 5,
) -> list[dict[str, Any]]:
    """Applies the run's language model to the text.

    A masked language model returns the `best` words for each mask: {"mask", "word", "probability"}. A causal or denoising one returns
    [{"text"}], sampled with nucleus sampling (`top_p`) at this temperature; 0 is greedy (beam search for denoising).
    Raises UserError: no language model, no mask in the text, more tokens than the model's context.
    """
    if not can_generate(run):
        raise UserError(f"{run} has no language model ({FOLDER}/); use a run of mlm, clm or seq2seq_denoising")
    import torch

    from untaught.encoders.language import positions

    model, tokenizer = _load(run / FOLDER)
    length = positions(model.config) or int(tokenizer.model_max_length)
    causal = type(model).__name__.endswith(("CausalLM", "LMHeadModel"))
    ids = tokenizer(text, return_tensors="pt", add_special_tokens=not causal).input_ids
    if causal and tokenizer.cls_token_id is None and not ids.shape[1]:
        raise UserError("can't continue an empty prompt; give some words")
    if ids.shape[1] > length - causal:
        raise UserError(f"the text has {ids.shape[1]} tokens, the model accepts {length - causal}; shorten it")
    with torch.no_grad():
        if not causal and not model.config.is_encoder_decoder:
            return _fill(model, tokenizer, ids, best)
        torch.manual_seed(seed)
        how: dict[str, Any] = {"do_sample": temperature > 0, "pad_token_id": tokenizer.pad_token_id}
        if temperature > 0:
            how |= {"temperature": temperature, "top_p": top_p, "top_k": 0}
        if causal:
            room = min(tokens, length - ids.shape[1])
            out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=room, eos_token_id=tokenizer.sep_token_id, **how)
        else:
            out = model.generate(ids, attention_mask=torch.ones_like(ids), max_length=length, num_beams=1 if temperature > 0 else 4, **how)
    return [{"text": tokenizer.decode(out[0], skip_special_tokens=True)}]


def _fill(model: Any, tokenizer: Any, ids: Any, best: int) -> list[dict[str, Any]]:
    places = (ids[0] == tokenizer.mask_token_id).nonzero().flatten().tolist()
    if not places:
        raise UserError(f"the text has no {tokenizer.mask_token}; put it where a word is to be predicted")
    probabilities = model(input_ids=ids).logits[0].float().softmax(-1)
    probabilities[:, tokenizer.all_special_ids] = 0.0
    rows = []
    for number, place in enumerate(places, 1):
        values, words = probabilities[place].topk(min(best, probabilities.shape[1]))
        for value, word in zip(values.tolist(), words.tolist(), strict=True):
            rows.append({"mask": number, "word": tokenizer.decode([word]).strip(), "probability": round(value, 4)})
    return rows


def _load(folder: Path) -> tuple[Any, Any]:
    """The model and tokenizer of an untrusted run folder. Raises UserError."""
    from untaught.encoders.transformers import NO_CODE, library, or_fault

    checked_folder(folder, folder.parent)
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    hub = library()
    with offline():
        config = or_fault(str(folder), lambda: hub.AutoConfig.from_pretrained(str(folder), **NO_CODE))
        named: list[Any] = [getattr(hub, str(name), None) for name in (getattr(config, "architectures", None) or ())]
        cls = next((found for found in named if isinstance(found, type) and issubclass(found, hub.PreTrainedModel)), None)
        if cls is None:
            raise UserError(f"the config.json of {folder} names no transformers model; train again, or copy the whole folder")
        expected = _weights_of(cls, config)
        if expected > size:  # missing weights would be randomly initialised
            raise UserError(f"{folder} can't be loaded: its config.json specifies {expected:,} weights, more than its files contain")
        model = or_fault(str(folder), lambda: cls.from_pretrained(str(folder), use_safetensors=True, **NO_CODE))
        check_finite_weights(model.state_dict(), str(folder))
        tokenizer = or_fault(str(folder), lambda: hub.AutoTokenizer.from_pretrained(str(folder), **NO_CODE))
    return model.eval(), tokenizer


def _weights_of(cls: Any, config: Any) -> int:
    """Number of weights of a model with this config, without allocating them."""
    import torch

    try:
        with torch.device("meta"):
            return sum(weight.numel() for weight in cls(config).parameters())
    except Exception:  # from_pretrained reports the error
        return 0
