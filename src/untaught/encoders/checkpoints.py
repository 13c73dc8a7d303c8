"""Any transformers model of texts or waveforms by name: which of the two, the data say."""

from __future__ import annotations

from untaught.core import Encoder, Options
from untaught.ranges import Start


def checkpoint(
    name: str,
    *,
    vocabulary: int | None = None,
    length: int | None = None,
    special: Options | None = None,
    rate: int | None = None,
    pretrained: bool = True,
    dropout: Start | None = None,
) -> Encoder:
    """The model `name`, a folder or a name on the Hugging Face hub: a language model for texts (vocabulary, length, special), a speech
    model for waveforms (rate). dropout: the model's if none."""
    if rate is not None:
        from untaught.encoders.speech import speech

        return speech(name, rate=rate, pretrained=pretrained, dropout=dropout)
    from untaught.encoders.language import language

    assert vocabulary is not None and length is not None and special is not None  # noqa: PT018
    return language(name, vocabulary=vocabulary, length=length, special=special, pretrained=pretrained, dropout=dropout)
