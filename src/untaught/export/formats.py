"""The encoder as files that others read: timm's folder, torch.export, ONNX. All take the whole view, normalised, and give (B,D)."""

from __future__ import annotations

import importlib
import io
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from untaught.core import Encoder, Options, UserError
from untaught.engine.run import encoder_folder, load_encoder
from untaught.engine.writing import whole
from untaught.export.parity import check_parity, real_input

ONNX_LIMIT = 2 << 30  # bytes in one file of its format


def _timm(encoder: Encoder, config: Options, folder: Path, x: Tensor) -> str:
    if "architecture" not in config:
        raise UserError(f"timm alone can't build {config['encoder']} as it was trained here; --to torch and --to onnx can hold it")
    import timm

    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    said = check_parity("timm's model", encoder, model(x), x, 1e-4)
    return f"timm.create_model('local-dir:{folder}', pretrained=True) {said}"


def _torch(encoder: Encoder, config: Options, folder: Path, x: Tensor) -> str:
    path = folder / "model.pt2"
    with whole(path) as partial, _quiet():
        batch = torch.export.Dim("batch", min=1, max=1 << 20)
        program = torch.export.export(encoder, (x[:2].clone(),), dynamic_shapes={"x": {0: batch}})
        buffer = io.BytesIO()  # torch's own file writer ends the process where the disk is full
        torch.export.save(program, buffer)
        partial.write_bytes(buffer.getvalue())
        module = torch.export.load(partial).module()
        said = check_parity(str(path), encoder, module(x), x, 1e-4)
        check_parity(str(path), encoder, module(x[:1]), x[:1], 1e-4)
    return f"torch.export.load('{path}').module() {said}"


def _onnx(encoder: Encoder, config: Options, folder: Path, x: Tensor) -> str:
    _need("onnx", "onnxscript", "onnxruntime")
    import onnxruntime

    if sum(p.numel() * p.element_size() for p in encoder.parameters()) > ONNX_LIMIT:
        raise UserError("the encoder is larger than the 2 GB of an ONNX file; --to torch can hold it")
    path = folder / "model.onnx"
    with whole(path) as partial, _quiet():
        export: Any = torch.onnx.export
        names: Options = {"input_names": ["x"], "output_names": ["features"]}
        batch = {"x": {0: torch.export.Dim("batch", min=1, max=1 << 20)}}
        export(encoder, (x[:2].clone(),), str(partial), dynamo=True, dynamic_shapes=batch, external_data=False, verbose=False, **names)
        session = onnxruntime.InferenceSession(str(partial), providers=["CPUExecutionProvider"])
        _, said = (
            check_parity(str(path), encoder, torch.from_numpy(session.run(None, {"x": some.numpy()})[0]), some, 1e-3) for some in (x[:1], x)
        )
    return f"onnxruntime.InferenceSession('{path}') {said}"


FORMATS: dict[str, Callable[[Encoder, Options, Path, Tensor], str]] = {"timm": _timm, "torch": _torch, "onnx": _onnx}


def export(run: Path, to: str | None = None, data: Any = None, columns: dict[str, str] | None = None) -> str:
    """Writes the encoder of a run (or of an encoder folder) in a format, checks it on real samples and says how it is loaded.

    to: timm, torch or onnx; without, timm where timm alone can build the encoder, else torch. The files lie in encoder/.
    Raises UserError: no encoder, an unknown format, a format that can't hold it, vectors that differ by more than is allowed.
    """
    if to is not None and to not in FORMATS:
        raise UserError(f"--to {to}: unknown; {', '.join(FORMATS)} are")
    encoder, config = load_encoder(run)
    encoder.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]  # what is traced takes any input
    folder = encoder_folder(run)
    kind = to or ("timm" if "architecture" in config else "torch")
    try:
        x = real_input(run if folder != run else run.parent if run.name == "encoder" else run, config, data, columns).contiguous()
        with torch.no_grad():
            return FORMATS[kind](encoder, config, folder, x)
    except UserError:
        raise
    except Exception as error:  # whatever a tracer can't follow
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
    """Tracers talk about their insides."""
    import logging

    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
