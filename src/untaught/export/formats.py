"""The encoder in other formats: timm and transformers folders, torch.export, ONNX. All take the `whole` view and return (B,D)."""

from __future__ import annotations

import importlib
import io
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from untaught.core import Encoder, Options, UserError
from untaught.export.parity import OfTensors, check_parity, real_input
from untaught.pipeline.pretrained import Pretrained, encoder_folder, load_encoder
from untaught.storage.atomic import replacing
from untaught.storage.ownership import check_replaceable

Inputs = tuple[Tensor, ...]  # the `whole` view: x, and valid for ragged samples
LIMITS = {"timm": 1e-4, "transformers": 1e-4, "torch": 1e-4, "onnx": 1e-3}  # largest allowed deviation from the encoder's vectors

TRACING = threading.RLock()  # torch traces one model at a time per process, and its logs are silenced process-wide
ONNX_LIMIT = 2 << 30  # bytes in one file


@dataclass(frozen=True)
class Exported:
    """An encoder in an export format. `str()` describes it in a sentence."""

    path: Path  # a file, or the encoder's folder
    format: str  # timm, transformers, torch or onnx
    load: str  # the Python expression that loads it without this library
    deviation: float  # largest difference from the encoder's vectors, relative to their largest absolute value if that is above 1
    samples: int  # real samples used for the check
    vectors: str = ""  # how to get the vectors, if not by calling the model

    def __str__(self) -> str:
        how = f"{self.load}, {self.vectors}" if self.vectors else self.load
        return f"{how}: largest difference {self.deviation:.1e} on {self.samples} real samples (limit {LIMITS[self.format]:.0e})"


def _timm(encoder: Encoder, config: Options, folder: Path, x: Inputs) -> Exported:
    if "architecture" not in config:
        raise UserError(f"timm can't build {config['encoder']} as trained here; use --to torch or --to onnx")
    import timm

    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    deviation = check_parity("timm's model", encoder, model(*x), x, LIMITS["timm"])
    return Exported(folder, "timm", f"timm.create_model('local-dir:{folder}', pretrained=True)", deviation, len(x[0]))


def _torch(encoder: Encoder, config: Options, folder: Path, x: Inputs) -> Exported:
    path = folder / "model.pt2"
    check_replaceable(path, "move it away")
    with replacing(path) as partial, _quiet():
        few, shapes = _traced(encoder, x)
        program = torch.export.export(OfTensors(encoder), few, dynamic_shapes=shapes)
        buffer = io.BytesIO()  # torch's file writer kills the process if the disk is full
        torch.export.save(program, buffer)
        partial.write_bytes(buffer.getvalue())
        module = torch.export.load(partial).module()
        deviation = check_parity(str(path), encoder, module(*x), x, LIMITS["torch"])
        one = tuple(part[:1] for part in x)
        check_parity(str(path), encoder, module(*one), one, LIMITS["torch"])
    return Exported(path, "torch", f"torch.export.load('{path}').module()", deviation, len(x[0]))


def _onnx(encoder: Encoder, config: Options, folder: Path, x: Inputs) -> Exported:
    _need("onnx", "onnxscript", "onnxruntime")
    import onnxruntime

    if sum(p.numel() * p.element_size() for p in encoder.parameters()) > ONNX_LIMIT:
        raise UserError("the encoder exceeds the 2 GB limit of an ONNX file; use --to torch")
    path = folder / "model.onnx"
    check_replaceable(path, "move it away")
    with replacing(path) as partial, _quiet():
        export: Any = torch.onnx.export
        few, shapes = _traced(encoder, x)
        names: Options = {"input_names": list(shapes), "output_names": ["features"]}
        export(OfTensors(encoder), few, str(partial), dynamo=True, dynamic_shapes=shapes, external_data=False, verbose=False, **names)
        session = onnxruntime.InferenceSession(str(partial), providers=["CPUExecutionProvider"])
        _, deviation = (
            check_parity(str(path), encoder, torch.from_numpy(session.run(None, _fed(names["input_names"], some))[0]), some, LIMITS["onnx"])
            for some in (tuple(part[:1] for part in x), x)
        )
    return Exported(path, "onnx", f"onnxruntime.InferenceSession('{path}')", deviation, len(x[0]))


def _traced(encoder: Encoder, x: Inputs) -> tuple[Inputs, Options]:
    """Two samples to trace with, and their dynamic axes: the batch, and the length if ragged."""
    batch = torch.export.Dim("batch", min=1, max=1 << 20)
    axes: dict[int, Any] = {0: batch}
    if len(x) > 1:
        longest = 1 << 20 if x[0].is_floating_point() else x[0].shape[1]  # token ids are limited by the position table
        axes[1] = torch.export.Dim("length", min=_shortest(encoder), max=longest)
    return tuple(part[:2].clone() for part in x), {name: dict(axes) for name in ("x", "valid")[: len(x)]}


def _shortest(encoder: Encoder) -> int:
    """The minimum time steps (including padding) of a traced program: tracers assume that dynamic axes (here: tokens) exceed 1."""
    step = getattr(encoder, "patch", 0) or encoder.stride
    return max(2, step + (getattr(encoder, "window", 0) or 1))


def _lengthened(encoder: Encoder, x: Inputs) -> Inputs:
    """Pads ragged samples to the minimum length of a traced program."""
    if len(x) == 1 or (behind := _shortest(encoder) - x[0].shape[1]) <= 0:
        return x
    return tuple(F.pad(part, (0, 0) * (part.ndim - 2) + (0, behind)) for part in x)


def _fed(names: list[str], x: Inputs) -> Options:
    return {name: part.numpy() for name, part in zip(names, x, strict=True)}


def _transformers(encoder: Encoder, config: Options, folder: Path, x: Inputs) -> Exported:
    if "model_type" not in config:
        raise UserError(f"{config['encoder']} is not a transformers model; use --to torch or --to onnx")
    from untaught.encoders.transformers import NO_CODE, library

    model = library().AutoModel.from_pretrained(str(folder), use_safetensors=True, **NO_CODE).eval()
    given, valid = x if len(x) == 2 else (x[0], torch.ones_like(x[0], dtype=torch.bool))
    if given.is_floating_point():  # waveforms, one at a time: a norm over time would see padding
        alone = (wave[own] for wave, own in zip(given, valid, strict=True))
        padded = (F.pad(wave, (0, max(getattr(encoder, "window", 0) - len(wave), 0))) for wave in alone)
        mean = torch.cat([model(wave[None]).last_hidden_state.mean(1) for wave in padded])
    else:
        body = model.get_encoder() if model.config.is_encoder_decoder else model
        tokens = body(input_ids=given, attention_mask=valid.long()).last_hidden_state
        mean = (tokens * valid.unsqueeze(2)).sum(1) / valid.sum(1, keepdim=True)
    deviation = check_parity("transformers' model", encoder, mean, x, LIMITS["transformers"])
    load = f"transformers.AutoModel.from_pretrained('{folder}')"
    return Exported(folder, "transformers", load, deviation, len(x[0]), "its tokens' mean")


FORMATS: dict[str, Callable[[Encoder, Options, Path, Inputs], Exported]] = {
    "timm": _timm,
    "transformers": _transformers,
    "torch": _torch,
    "onnx": _onnx,
}


def export(
    run: Path,
    to: str | None = None,
    data: Any = None,
    columns: dict[str, str] | None = None,
    loaded: Pretrained | None = None,
) -> Exported:
    """Exports the encoder of a run (or an encoder folder) and checks the result on real samples.

    to: timm, transformers, torch or onnx; by default the library that can build the encoder, else torch. Files are written to encoder/.
    loaded: the encoder, if the caller has just saved it.
    Raises UserError: no encoder, an unknown or unsuitable format, vectors that differ by more than the limit.
    """
    if to is not None and to not in FORMATS:
        raise UserError(f"--to {to}: unknown format; known: {', '.join(FORMATS)}")
    encoder, config, prep = loaded or load_encoder(run)
    encoder.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]  # traced programs take any input
    folder = encoder_folder(run)
    kind = to or ("timm" if "architecture" in config else "transformers" if "model_type" in config else "torch")
    try:
        x = real_input(run if folder != run else run.parent if run.name == "encoder" else run, config, prep, data, columns)
        with torch.no_grad(), TRACING:
            return FORMATS[kind](encoder, config, folder, _lengthened(encoder, x))
    except UserError:
        raise
    except Exception as error:  # tracing can fail in many ways
        line = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise UserError(f"{config['encoder']} can't be exported to {kind}: {line}; try another --to ({', '.join(FORMATS)})") from error


def _need(*packages: str) -> None:
    for package in packages:
        try:
            importlib.import_module(package)
        except ImportError:
            raise UserError(f"--to onnx needs {package}; install it with: pip install 'untaught[onnx]'") from None


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences tracers' logs and warnings."""
    import logging

    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
