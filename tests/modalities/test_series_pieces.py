"""Series used until a step, and channels apart: pieces, settings, and views of several channels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from untaught.core import Preprocessor, UserError
from untaught.modalities.series import SERIES
from untaught.modalities.series.records import cut, plan
from untaught.pipeline.view_pipeline import used_view

VALUES = np.arange(60.0).reshape(3, 20)
RECORD: dict[str, Any] = {"series": VALUES, "name": "r"}


def pieces(**settings: Any) -> list[dict[str, Any]]:
    made = cut(plan([RECORD], settings))
    assert made is not None
    return made(RECORD)


def test_steps_behind_the_end_are_never_in_a_piece() -> None:
    for until in (12, 0.6):
        found = pieces(window=5, stride=4, until=until)
        assert [piece["name"] for piece in found] == ["r 0-5", "r 4-9", "r 7-12"]
        assert max(piece["series"].max() for piece in found) == 51
        assert {piece["group"] for piece in found} == {"r"}
    (only,) = pieces(until=12)
    np.testing.assert_array_equal(only["series"], VALUES[:, :12])


def test_channels_apart_are_series_of_their_own() -> None:
    found = pieces(window=8, stride=8, apart=True)
    assert len(found) == 9
    assert all(np.asarray(piece["series"]).ndim == 1 for piece in found)
    np.testing.assert_array_equal(found[1]["series"], VALUES[1, :8])
    assert found[-1]["name"] == "r 12-20 channel 2"
    assert plan([RECORD], {"apart": True})["channels"] == 1
    assert plan([RECORD], {"apart": True})["standardise"] == "sample"


def test_one_scale_for_all_channels_is_refused() -> None:
    with pytest.raises(UserError, match="standardise=channel: with apart=True"):
        plan([RECORD], {"apart": True, "standardise": "channel"})


def test_settings_without_them_are_as_before() -> None:
    assert not {"apart", "until"} & plan([RECORD], {"window": 5}).keys()
    assert cut(plan([RECORD], {})) is None


@pytest.mark.parametrize("missing", [False, True])
def test_several_channels_become_inputs_of_their_own(missing: bool) -> None:
    settings = plan([RECORD], {"apart": True, "missing": missing})
    prep = Preprocessor(SERIES, settings, {"mean": [0.0], "std": [1.0]})
    x = torch.randn(2, 20, 3)
    view = used_view(prep, "whole")({"values": x, "values_valid": torch.ones(2, 20, dtype=torch.bool), "index": torch.arange(2)}, 0)[0]
    assert view.x.shape == (2, 3, 20, 2 if missing else 1)
    assert view.parts is not None
    alone = used_view(prep, "whole")(
        {"values": x[:, :, 1:2], "values_valid": torch.ones(2, 20, dtype=torch.bool), "index": torch.arange(2)}, 0
    )[0]
    assert torch.allclose(view.apart().x.unflatten(0, (2, 3))[:, 1], alone.x, atol=1e-6)


def test_channels_are_found_by_their_names() -> None:
    record = {"series": np.array([[1.0, 2.0], [3.0, 4.0]]), "channels": "wind\nrain"}
    prep = Preprocessor(SERIES, plan([record], {}))
    assert prep.settings["channel_names"] == ["wind", "rain"]
    other = {"series": np.array([[5.0, 6.0], [3.0, 4.0], [1.0, 2.0]]), "channels": "label\nrain\nwind"}
    for one in (record, other, {"series": record["series"]}, {**record, "channels": "a\nb"}):
        np.testing.assert_array_equal(SERIES.decode(one, prep)["values"], [[1, 3], [2, 4]])
    with pytest.raises(ValueError, match="has no channel wind, but rain, sun; the encoder reads wind, rain"):
        SERIES.decode({**record, "channels": "rain\nsun"}, prep)


@pytest.mark.parametrize(
    ("apart", "own", "names"), [(False, "rain\nwind", ["wind", "rain"]), (False, "a\nb", ["a", "b"]), (True, "a\nb\nc", ["a", "b", "c"])]
)
def test_new_channels_keep_their_names(apart: bool, own: str, names: list[str]) -> None:
    settings = plan([{"series": np.ones((2, 9)), "channels": "wind\nrain"}], {"apart": apart, "until": 0.5})
    adapted = SERIES.adapt([{"series": np.ones((own.count("\n") + 1, 9)), "channels": own}], settings)
    assert adapted["channel_names"] == names
    assert "until" not in adapted
