"""What a pretrained language model says: hidden words, the rest of a prompt, a damaged text restored."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from untaught.core import UserError
from untaught.encoders.offline import offline
from untaught.ranges import Few, Seed, Size, Within, in_range
from untaught.storage.finite import check_finite_weights
from untaught.storage.safe_open import checked_folder

FOLDER = "method"  # of a run: the model with its heads, as transformers saves it


def can_generate(run: Path) -> bool:
    """Whether a run folder holds a language model."""
    return (run / FOLDER / "config.json").exists()


def names_data(text: str) -> bool:
    """Whether this is the name of something to read, and no text itself."""
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
    """What the run's model makes of the text.

    One that fills masks: for each mask the `best` words, {"mask", "word", "probability"}. One that continues or restores:
    [{"text"}], sampled from the most likely words that hold `top_p` of the probability, at this temperature; 0 takes the likeliest.
    Raises UserError: no language model, no mask, more tokens than the model's context.
    """
    if not can_generate(run):
        raise UserError(f"{run} holds no language model ({FOLDER}/); runs of mlm, clm and seq2seq_denoising do")
    import torch

    from untaught.encoders.language import positions

    model, tokenizer = _load(run / FOLDER)
    length = positions(model.config) or int(tokenizer.model_max_length)
    causal = type(model).__name__.endswith(("CausalLM", "LMHeadModel"))
    ids = tokenizer(text, return_tensors="pt", add_special_tokens=not causal).input_ids
    if causal and tokenizer.cls_token_id is None and not ids.shape[1]:
        raise UserError("an empty prompt can't be continued; give some words")
    if ids.shape[1] > length - causal:
        raise UserError(f"the text has {ids.shape[1]} tokens, the model reads {length - causal}; shorten it")
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
        raise UserError(f"the text has no {tokenizer.mask_token}; write it where a word is to be filled in")
    probabilities = model(input_ids=ids).logits[0].float().softmax(-1)
    probabilities[:, tokenizer.all_special_ids] = 0.0
    rows = []
    for number, place in enumerate(places, 1):
        values, words = probabilities[place].topk(min(best, probabilities.shape[1]))
        for value, word in zip(values.tolist(), words.tolist(), strict=True):
            rows.append({"mask": number, "word": tokenizer.decode([word]).strip(), "probability": round(value, 4)})
    return rows


def _load(folder: Path) -> tuple[Any, Any]:
    """The model of a run's folder, which may come from anyone, and its tokenizer. Raises UserError."""
    from untaught.encoders.transformers import NO_CODE, library, or_fault

    checked_folder(folder, folder.parent)
    weighs = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    hub = library()
    with offline():
        config = or_fault(str(folder), lambda: hub.AutoConfig.from_pretrained(str(folder), **NO_CODE))
        named: list[Any] = [getattr(hub, str(name), None) for name in (getattr(config, "architectures", None) or ())]
        cls = next((found for found in named if isinstance(found, type) and issubclass(found, hub.PreTrainedModel)), None)
        if cls is None:
            raise UserError(f"{folder} names no model of transformers in its config.json; train again, or copy the whole folder")
        asks = _weights_of(cls, config)
        if asks > weighs:  # what is missing would be drawn anew
            raise UserError(f"{folder} can't be loaded: its config.json asks for {asks:,} weights, more than its files hold")
        model = or_fault(str(folder), lambda: cls.from_pretrained(str(folder), use_safetensors=True, **NO_CODE))
        check_finite_weights(model.state_dict(), str(folder))
        tokenizer = or_fault(str(folder), lambda: hub.AutoTokenizer.from_pretrained(str(folder), **NO_CODE))
    return model.eval(), tokenizer


def _weights_of(cls: Any, config: Any) -> int:
    """How many weights a model has that is built by this config: counted without any."""
    import torch

    try:
        with torch.device("meta"):
            return sum(weight.numel() for weight in cls(config).parameters())
    except Exception:  # from_pretrained says what is wrong
        return 0
