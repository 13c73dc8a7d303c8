"""What a speech checkpoint of transformers says about its input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from untaught.core import Options, UserError
from untaught.storage.safe_load import read_json

PREPROCESSOR = "preprocessor_config.json"


def speech_input(name: str) -> Options:
    """The input of the checkpoint `name`, a folder or a name on the Hugging Face hub: "rate", samples a second; "standardise", whether each
    recording has mean 0 and variance 1. Raises UserError for one that does not say."""
    place = Path(name)
    if place.is_dir():
        if not (place / PREPROCESSOR).exists():
            raise UserError(f"transformers/{name} has no {PREPROCESSOR}, which says at how many samples a second it reads; copy it too")
        found: Any = read_json(place / PREPROCESSOR, None)
    else:
        from transformers.feature_extraction_utils import FeatureExtractionMixin

        try:
            found = FeatureExtractionMixin.get_feature_extractor_dict(name)[0]
        except OSError as error:
            raise UserError(f"transformers/{name} is neither a folder nor a speech model on the hub; give the folder of one") from error
    rate = found.get("sampling_rate") if isinstance(found, dict) else None
    if type(rate) is not int or not 1000 <= rate <= 384_000:
        raise UserError(f"transformers/{name}: sampling_rate={rate} in its {PREPROCESSOR} must be a whole number from 1,000 to 384,000")
    return {"rate": rate, "standardise": bool(found.get("do_normalize", True))}
