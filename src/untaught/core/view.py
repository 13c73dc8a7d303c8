"""One view of a batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

Batch = dict[str, Tensor]  # decoded samples of one step, on the device; always "index" (B,); "<field>_valid" for a ragged field


@dataclass
class View:
    """One view of a batch: input, validity, mask, target, geometry. Every tensor has the samples on its first axis; floats stay float32."""

    x: Any  # a Tensor, or a dict[str, Tensor] for several inputs
    valid: Any = None  # (B,L) bool along axis 1 of x, False for padding; if x is a dict, a dict with one per ragged input
    mask: Tensor | None = None  # (B,N) bool, tokens masked in the input or used in the loss
    target: Tensor | None = None  # prediction target; its length may differ from x
    target_valid: Tensor | None = None
    meta: dict[str, Tensor] | None = None  # geometry etc.: "affine" (B,2,3) view -> source, "index" (B,), "parts" (see `parts`) ...

    def __len__(self) -> int:
        """The number of samples."""
        return len(next(iter(self.x.values())) if isinstance(self.x, dict) else self.x)

    def __getitem__(self, rows: slice | Tensor) -> View:
        """The view of some samples: a slice, or an index tensor."""
        return self._map(lambda value: value[rows])

    def to(self, device: Any) -> View:
        """The view on a device."""
        return self._map(lambda value: value.to(device, non_blocking=True))

    @property
    def parts(self) -> Tensor | None:
        """Which part of its sample each input is, (B,T), in a view with T inputs per sample, x (B,T,...); None in any other view."""
        return (self.meta or {}).get("parts")

    def apart(self) -> View:
        """Of a view with T inputs per sample: the view of all inputs, x (B*T,...). Any other view is returned as it is."""
        return self if self.parts is None else View(self.x.flatten(0, 1))

    @property
    def shapes(self) -> str:
        """Shapes of one sample's inputs, for messages and comparisons: "3 x 32 x 32"."""
        return ", ".join(" x ".join(map(str, value.shape[1:])) for value in _parts(self.x).values())

    @property
    def nbytes(self) -> int:
        """Size of the inputs in bytes."""
        return sum(value.numel() * value.element_size() for value in _parts(self.x).values())

    def map_inputs(self, change: Callable[[Tensor], Tensor]) -> View:
        """The same view with `change` applied to x, or to each of its inputs."""
        return replace(self, x={key: change(value) for key, value in self.x.items()} if isinstance(self.x, dict) else change(self.x))

    def _map(self, change: Callable[[Tensor], Tensor]) -> View:
        def each(value: Any) -> Any:
            if isinstance(value, dict):
                return {key: change(part) for key, part in value.items()}
            return None if value is None else change(value)

        return View(**{f.name: each(getattr(self, f.name)) for f in fields(View)})

    @staticmethod
    def cat(views: Sequence[View]) -> View:
        """Concatenates the samples of all views, in order. Ragged inputs, masks and targets are padded to the longest, see `valid`;
        a field missing in one of the views is dropped.

        Raises ValueError if shapes differ in more than the length of a ragged input.
        """
        inputs = [_parts(view.x) for view in views]
        valids = [_parts(view.valid) for view in views]
        x: dict[str, Tensor] = {}
        valid: dict[str, Tensor] = {}
        for key in inputs[0]:
            values, known = [one[key] for one in inputs], [one.get(key) for one in valids]
            ragged = any(each is not None for each in known)
            x[key] = _cat(values, ragged)
            if ragged:
                masks = [v.new_ones(v.shape[:2], dtype=torch.bool) if k is None else k for v, k in zip(values, known, strict=True)]
                valid[key] = _cat(masks, True)
        meta = {key: [(view.meta or {}).get(key) for view in views] for key in views[0].meta or {}}
        own = {name: [getattr(view, name) for view in views] for name in ("mask", "target", "target_valid")}
        joint = {name: _cat(parts, bool(valid)) for name, parts in own.items() if all(part is not None for part in parts)}
        single = not isinstance(views[0].x, dict)
        return View(
            x[""] if single else x,
            valid.get("") if single else valid or None,
            **joint,
            meta={key: _cat(parts, False) for key, parts in meta.items() if all(part is not None for part in parts)} or None,
        )


def _parts(value: Any) -> dict[str, Tensor]:
    """A tensor or a dict of tensors -> dict by name; "" for a single tensor."""
    return value if isinstance(value, dict) else {} if value is None else {"": value}


def _cat(values: list[Any], ragged: bool) -> Tensor:
    """Concatenates on axis 0; ragged tensors are padded with 0 along axis 1."""
    if ragged and values[0].ndim > 1 and len({value.shape[1] for value in values}) > 1:
        longest = max(value.shape[1] for value in values)
        values = [torch.cat([v, v.new_zeros(len(v), longest - v.shape[1], *v.shape[2:])], 1) if v.shape[1] < longest else v for v in values]
    if len({value.shape[1:] for value in values}) > 1:
        raise ValueError(f"can't concatenate views with sample shapes {', '.join(str(tuple(value.shape[1:])) for value in values)}")
    return torch.cat(values)
