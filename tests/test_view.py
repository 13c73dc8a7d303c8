"""A view slices and joins all that it holds; ragged inputs are padded, and their validity is kept."""

from __future__ import annotations

import pytest
import torch

from untaught.core import View


def ragged(rows: int, length: int, start: float) -> View:
    x = torch.arange(rows * length * 2, dtype=torch.float32).view(rows, length, 2) + start
    valid = torch.arange(length) < torch.arange(length - rows + 1, length + 1).unsqueeze(1)
    return View(x, valid, mask=valid.flip(1) & valid, target=x + 1, meta={"index": torch.arange(rows)})


def several() -> View:
    """Two inputs, of which one is ragged."""
    image, text = torch.randn(4, 3, 8, 8), torch.arange(20).view(4, 5)
    return View({"image": image, "text": text}, {"text": text < 18}, meta={"index": torch.arange(4)})


def test_rows_of_a_view_are_rows_of_each_field() -> None:
    view = ragged(3, 5, 0.0)
    assert len(view) == 3
    for rows in (slice(1, 3), torch.tensor([2, 0])):
        some = view[rows]
        assert len(some) == 2
        for name in ("x", "valid", "mask", "target"):
            assert torch.equal(getattr(some, name), getattr(view, name)[rows])
        assert torch.equal(some.meta["index"], view.meta["index"][rows])  # type: ignore[index]
        assert some.target_valid is None


def test_a_view_of_several_inputs_is_cut_and_joined_by_input() -> None:
    view = several()
    assert len(view) == 4
    again = View.cat([view[:1], view[1:]])
    for name in ("image", "text"):
        assert torch.equal(again.x[name], view.x[name])
    assert set(again.valid) == {"text"}
    assert torch.equal(again.valid["text"], view.valid["text"])
    assert view.nbytes == 4 * 3 * 64 * 4 + 20 * 8
    assert view.to("meta").x["image"].device.type == "meta"
    assert torch.equal(view.map_inputs(lambda x: x + 1).x["text"], view.x["text"] + 1)


def test_views_of_other_lengths_are_padded_and_say_so() -> None:
    short, long = ragged(2, 3, 0.0), ragged(2, 5, 100.0)
    for views in ([short, long], [long, short]):
        joint = View.cat(views)
        assert joint.x.shape == (4, 5, 2)
        at = 0
        for view in views:
            rows, length = slice(at, at + 2), view.x.shape[1]
            assert torch.equal(joint.x[rows, :length], view.x)
            assert torch.equal(joint.valid[rows, :length], view.valid)
            assert torch.equal(joint.mask[rows, :length], view.mask)  # type: ignore[index]
            assert torch.equal(joint.target[rows, :length], view.target)  # type: ignore[index]
            assert not joint.valid[rows, length:].any()
            assert not joint.mask[rows, length:].any()  # type: ignore[index]
            at += 2


def test_a_view_without_padding_is_valid_beside_one_with_it() -> None:
    joint = View.cat([View(torch.ones(2, 3, 2)), ragged(2, 5, 0.0)])
    assert joint.valid[:2].tolist() == [[True] * 3 + [False] * 2] * 2


def test_what_one_view_lacks_is_left_out() -> None:
    joint = View.cat([View(torch.ones(2, 3), mask=torch.ones(2, 3), meta={"a": torch.ones(2), "b": torch.ones(2)}), View(torch.ones(1, 3))])
    assert joint.mask is None
    assert joint.meta is None
    assert joint.valid is None


def test_views_of_other_shapes_are_not_joined() -> None:
    with pytest.raises(ValueError, match=r"can't concatenate views with sample shapes \(3,\), \(4,\)"):
        View.cat([View(torch.ones(2, 3)), View(torch.ones(2, 4))])
