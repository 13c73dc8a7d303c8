"""Rows of tables: kinds of columns, cells, and views against plain loops."""

from __future__ import annotations

import json
from collections import Counter
from datetime import datetime
from itertools import pairwise
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from untaught.core import Batch, Preprocessor, UserError, View
from untaught.modalities.table import TABLE
from untaught.modalities.table.columns import FILE, SURVEYED, check_files, extend, features_of, learn, plan
from untaught.modalities.table.pictures import values_of_features
from untaught.modalities.table.views import VIEWS, layout_of
from untaught.ops.counter_rng import CounterRNG

COLOURS = ("red", "green", "blue")


def rows(count: int = 60, **more: list[Any]) -> list[dict[str, Any]]:
    """A number, a number with missing values, a category with missing ones, a date."""
    random = np.random.default_rng(0)
    columns: dict[str, Any] = {
        "age": [int(v) for v in random.integers(20, 70, count)],
        "weight": [None if v > 1 else round(float(v), 3) for v in random.normal(size=count)],
        "colour": ["" if i % 10 == 0 else COLOURS[i % 3] for i in range(count)],
        "day": [datetime(2024, 1 + i % 12, 1 + i % 28, i % 24) for i in range(count)],
        **more,
    }
    return [{name: values[i] for name, values in columns.items()} for i in range(count)]


def fitted(table: list[dict[str, Any]], **overrides: Any) -> Preprocessor:
    records = [{"table": row} for row in table]
    settings, files = learn(records, plan(records, overrides))
    return Preprocessor(TABLE, settings, files=files)


def batch_of(table: list[dict[str, Any]], prep: Preprocessor) -> Batch:
    cells = np.stack([prep.decode({"table": row})["cells"] for row in table])
    return {"cells": torch.from_numpy(cells), "index": torch.arange(len(table))}


def view(name: str, batch: Batch, prep: Preprocessor, epoch: int = 0, **options: Any) -> View:
    own = prep.presets()[name] | options
    return TABLE.views[name](batch, CounterRNG(0, epoch, batch["index"], 0), own, prep)


def kinds(prep: Preprocessor) -> dict[str, str]:
    return {one["column"]: one["kind"] for one in json.loads(prep.files[FILE])["features"]}


# -------------------------------------------------------------------------------------------------------------- columns


def test_kinds_of_columns_are_inferred() -> None:
    count = 60
    more: dict[str, list[Any]] = {
        "zip": [f"0{100 + i % 7}" for i in range(count)],
        "price": [f"{i * 1.5}" for i in range(count)],
        "open": [i % 3 == 0 for i in range(count)],
        "seen": [f"2024-03-{1 + i % 28:02d}" for i in range(count)],
    }
    found = kinds(fitted(rows(count, **more)))
    assert found == {
        "age": "number",
        "weight": "number",
        "colour": "category",
        "day": "date",
        "zip": "category",
        "price": "number",
        "open": "category",
        "seen": "date",
    }


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ([7] * 60, "is constant (7)"),
        (["x"] * 60, "is constant (x)"),
        ([None] * 60, "has no values"),
        (["?"] * 60, "has no values"),
        (list(range(100, 160)), "it numbers the rows"),
        ([f"note {i}" for i in range(60)], "text with 60 different values in 60 rows; text=hash reads its hash"),
        ([[1, 2]] * 60, "holds list values"),
    ],
)
def test_a_column_without_information_is_left_out_and_said(values: list[Any], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "odd" not in kinds(fitted(rows(odd=values)))
    assert says in " ".join(capsys.readouterr().err.split())


def test_values_that_are_no_numbers_are_missing_and_counted(capsys: pytest.CaptureFixture[str]) -> None:
    prep = fitted(rows(odd=[float("inf"), "12a", *(float(i % 17) for i in range(58))]))
    said = " ".join(capsys.readouterr().err.split())
    assert "column odd has 1 infinite values, read as missing and has 1 values that are not numbers, e.g. '12a', read as missing" in said
    at = [feature.column for feature in features_of(prep)].index("odd")
    for value in (float("inf"), float("nan"), "12a", "", None, "?"):
        assert np.isnan(prep.decode({"table": rows(1, odd=[value])[0]})["cells"][at])


def test_a_column_of_numbers_and_words_is_a_category() -> None:
    assert kinds(fitted(rows(odd=[("a", 3, "b", 3.0)[i % 4] for i in range(60)])))["odd"] == "category"


def test_kinds_are_the_users_if_given() -> None:
    found = kinds(fitted(rows(note=[f"note {i}" for i in range(60)]), kinds="age:category,note:hash,day:leave"))
    assert found == {"age": "category", "weight": "number", "colour": "category", "note": "hash"}
    assert kinds(fitted(rows(note=[f"note {i}" for i in range(60)]), text="hash"))["note"] == "hash"


@pytest.mark.parametrize(
    ("asked", "says"),
    [("agee:category", "there is no column agee"), ("age:words", "words is no kind of column; allowed: number"), ("age", "give NAME:KIND")],
)
def test_wrong_kinds_are_one_line(asked: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        fitted(rows(), kinds=asked)


def test_a_table_of_which_nothing_can_be_used_is_refused() -> None:
    with pytest.raises(UserError, match="no column can be used: a is left out: it is constant"):
        fitted([{"a": 1, "b": None}] * 30)


def test_what_is_learned_depends_on_the_training_rows_alone() -> None:
    first = fitted(rows(60))
    assert fitted(rows(60)).files == first.files
    assert fitted(rows(59)).files != first.files
    with pytest.raises(UserError, match=r"columns.json describes other columns"):
        TABLE.check_files(first.settings, fitted(rows(59)).files)


def test_columns_of_a_large_table_are_inferred_from_rows_of_all_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    records = ({"table": {"a": float(i)}} for i in range(3 * SURVEYED))
    settings, files = learn(records, plan([{"table": {"a": 0.0}}], {}))
    (feature,) = features_of(Preprocessor(TABLE, settings, files=files))
    assert feature.mean == pytest.approx(1.5 * SURVEYED, rel=0.02)
    assert f"inferred from {SURVEYED:,} of {3 * SURVEYED:,}" in " ".join(capsys.readouterr().err.split())


# ---------------------------------------------------------------------------------------------------------------- cells


def test_cells_are_standardised_numbers_codes_and_missing() -> None:
    table = rows()
    prep = fitted(table)
    batch = batch_of(table, prep)
    at = {f"{f.column}.{f.part}": i for i, f in enumerate(features_of(prep))}
    ages = np.array([row["age"] for row in table], float)
    np.testing.assert_allclose(batch["cells"][:, at["age."]], (ages - ages.mean()) / ages.std(), rtol=1e-5, atol=1e-6)
    codes = {"blue": 0, "green": 1, "red": 2}
    for row, cell in zip(table, batch["cells"][:, at["colour."]].tolist(), strict=True):
        assert cell == codes[row["colour"]] if row["colour"] else np.isnan(cell)
    unseen = prep.decode({"table": rows(1)[0] | {"colour": "violet", "weight": None}})["cells"]
    assert unseen[at["colour."]] == -1
    assert np.isnan(unseen[at["weight."]])
    hours = np.array([row["day"].hour for row in table])
    turn = np.sin(2 * np.pi * hours / 24)
    np.testing.assert_allclose(batch["cells"][:, at["day.hour_sin"]], (turn - turn.mean()) / turn.std(), rtol=1e-4, atol=1e-5)


def test_a_row_without_a_column_says_which() -> None:
    prep = fitted(rows())
    with pytest.raises(ValueError, match="has no column weight"):
        prep.decode({"table": {"age": 3, "colour": "red", "day": datetime(2024, 1, 1)}})
    prep.decode({"table": rows(1)[0] | {"more": 3}})  # further columns are not read


def test_what_can_not_be_used_in_new_rows_is_said() -> None:
    prep = fitted(rows())
    assert TABLE.unlike([{"table": row} for row in rows(5)], prep) == []
    new = [row | {"age": "31,5", "weight": "?", "colour": "violet", "day": "soon"} for row in rows(3)]
    assert TABLE.unlike([{"table": row} for row in [*new, *rows(1)]], prep) == [
        "column age: 3 of 4 rows sampled have a value that is no number as in training and is taken as missing, e.g. '31,5'",
        "column colour: 3 of 4 rows sampled have a category unseen in training, e.g. 'violet'",
        "column day: 3 of 4 rows sampled have a value that is no date as in training and is taken as missing, e.g. 'soon'",
    ]


def test_many_categories_share_one_value_and_unseen_ones_take_it() -> None:
    prep = fitted(rows(900, many=[f"c{i % 300 if i < 600 else i % 200}" for i in range(900)]))
    (many,) = [feature for feature in features_of(prep) if feature.column == "many"]
    assert many.values is not None
    assert len(many.values) == many.other == 255
    at = [feature.column for feature in features_of(prep)].index("many")
    assert prep.decode({"table": rows(1)[0] | {"many": "new"}})["cells"][at] == 255


def test_arrays_are_rows_of_columns_by_number() -> None:
    records = [{"table": row} for row in np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)]
    settings, files = learn(records, plan(records, {}))
    assert [one["name"] for one in settings["features"]] == ["x0", "x1", "x2"]
    assert Preprocessor(TABLE, settings, files=files).decode(records[0])["cells"].shape == (3,)
    with pytest.raises(UserError, match="a row of numbers or texts"):
        plan([{"table": np.zeros((2, 3))}], {})


# ---------------------------------------------------------------------------------------------------------------- views


def by_loops(cells: Tensor, prep: Preprocessor, hidden: Tensor | None = None) -> Tensor:
    """`whole` with plain loops."""
    result = []
    for i, row in enumerate(cells.tolist()):
        out: list[float] = []
        for j, (value, feature) in enumerate(zip(row, features_of(prep), strict=True)):
            gone, hid = value != value, hidden is not None and bool(hidden[i, j])
            flag = 1.0 if hid or (gone and feature.missing) else 0.0
            if feature.values is None:
                known = sorted(v for v in feature.marginal.tolist() if v == v)
                score = 0.0
                if not gone and not hid:
                    distinct = sorted(set(known))
                    middle = [(known.index(v) + known.count(v) / 2) / len(known) for v in distinct]
                    score = float(np.interp(value, distinct, [NormalDist().inv_cdf(p) for p in middle]))
                out += [score, flag]
            else:
                size = feature.buckets or len(feature.values) + (feature.other >= 0)
                out += [1.0 if not gone and not hid and code == value else 0.0 for code in range(size)] + [flag]
        result.append(out)
    return torch.tensor(result)


def test_a_row_is_its_scores_indicators_and_missing_flags() -> None:
    table = rows(40)
    prep = fitted(table)
    batch = batch_of([*table, rows(1)[0] | {"colour": "violet", "age": 500}], prep)
    found = view("whole", batch, prep).x
    torch.testing.assert_close(found, by_loops(batch["cells"], prep), atol=1e-4, rtol=1e-4)
    assert found.shape[1] == sum(one["values"] + 1 for one in prep.settings["features"])


def test_scarf_redraws_a_share_of_the_features_from_their_distribution() -> None:
    table = rows(200)
    prep = fitted(table)
    batch = batch_of(table, prep)
    count = batch["cells"].shape[1]
    seen: dict[int, list[float]] = {j: [] for j in range(count)}
    for epoch in range(20):
        corrupt = view("global", batch, prep, epoch, level=0.6).x
        clean = view("whole", batch, prep).x
        starts = np.cumsum([0, *(one["values"] + 1 for one in prep.settings["features"])])
        changed = torch.stack([(corrupt[:, a:b] != clean[:, a:b]).any(1) for a, b in pairwise(starts)], 1)
        assert changed.sum(1).max() <= int(0.6 * count)
        at = [f.column for f in features_of(prep)].index("colour")
        own = corrupt[changed[:, at], starts[at] : starts[at + 1]]
        seen[at] += own.argmax(1).tolist()
    at = [f.column for f in features_of(prep)].index("colour")
    shares = Counter(seen[at])
    expected = Counter(3 if v != v else int(v) for v in batch["cells"][:, at].tolist())
    total, drawn = sum(expected.values()), sum(shares.values())
    # a redrawn value that equals the old one is not seen as changed: a category of share p is seen with p (1 - p), up to a factor
    weights = {code: n / total * (1 - n / total) for code, n in expected.items()}
    for code, weight in weights.items():
        assert shares[code] / drawn == pytest.approx(weight / sum(weights.values()), abs=0.03)


def test_a_redrawn_number_has_the_distribution_of_the_training_rows() -> None:
    table = [{"a": float(v)} for v in np.random.default_rng(0).exponential(size=500)]
    prep = fitted(table, scale="standard")
    batch = batch_of(table, prep)
    drawn = torch.cat([view("global", batch, prep, epoch, level=1.0).x[:, 0] for epoch in range(10)])
    own = view("whole", batch, prep).x[:, 0]
    for share in (0.1, 0.5, 0.9):
        assert float(drawn.quantile(share)) == pytest.approx(float(own.quantile(share)), abs=0.08)
    assert (drawn.unsqueeze(1) - own).abs().amin(1).max() < 1e-4


def test_a_subset_of_columns_hides_the_others() -> None:
    table = rows(30)
    prep = fitted(table)
    batch = batch_of(table, prep)
    count = batch["cells"].shape[1]
    x = view("global", batch, prep, corruption="missing", level=0.5).x
    chosen = CounterRNG(0, 0, batch["index"], 0).order(count) < int(0.5 * count)
    torch.testing.assert_close(x, by_loops(batch["cells"], prep, chosen), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["masked", "global_masked"])
def test_the_target_of_a_masked_feature_is_its_values(name: str) -> None:
    table = rows(30)
    prep = fitted(table)
    batch = batch_of(table, prep)
    found = view(name, batch, prep, level=0.0)
    assert found.mask is not None
    assert found.target is not None
    assert found.target_valid is not None
    sizes = [one["values"] for one in prep.settings["features"]]
    starts = np.cumsum([0, *(size + 1 for size in sizes)])
    for j, size in enumerate(sizes):
        torch.testing.assert_close(found.target[:, j, :size], found.x[:, starts[j] : starts[j] + size])
        assert not found.target_valid[:, j, size:].any()
        assert torch.equal(found.target_valid[:, j, 0], ~batch["cells"][:, j].isnan())
    assert found.mask.sum(1).unique().numel() == 1


def test_masked_tokens_name_the_value_of_each_feature() -> None:
    table = rows(50)
    prep = fitted(table)
    batch = batch_of(table, prep)
    found = view("masked_tokens", batch, prep, rate=0.5)
    assert found.mask is not None
    assert found.target is not None
    clean, start = by_loops(batch["cells"], prep), 0
    places = np.cumsum([0, *(one["values"] + 1 for one in prep.settings["features"])])
    for j, one in enumerate(prep.settings["features"]):
        edges = one["edges"]
        for i in range(len(table)):
            if batch["cells"][i, j].isnan():
                assert not found.mask[i, j]
                continue
            score = float(clean[i, places[j]])
            code = sum(score >= edge - 1e-5 for edge in edges[1:-1]) if edges else int(batch["cells"][i, j])
            assert int(found.target[i, j]) - start in ({code, code - 1} if edges and any(abs(score - e) < 1e-4 for e in edges) else {code})
        start += len(edges) - 1 if edges else one["values"]
    assert found.meta is not None
    assert torch.equal(found.mask.gather(1, found.meta["places"]).sum(1), found.mask.sum(1))
    hidden = [(found.x[:, places[j + 1] - 1] == 1) & found.mask[:, j] for j in range(found.mask.shape[1])]
    assert 0.7 < torch.stack(hidden, 1).sum() / found.mask.sum() < 0.9


def test_an_unseen_category_is_no_target() -> None:
    prep = fitted(rows())
    batch = batch_of([rows(1)[0] | {"colour": "violet"}] * 20, prep)
    found = view("masked_tokens", batch, prep, rate=1.0)
    at = [f.column for f in features_of(prep)].index("colour")
    assert found.mask is not None
    assert not found.mask[:, at].any()


@pytest.mark.parametrize("corruption", ["marginal", "missing"])
def test_the_mask_of_a_corrupted_row_says_what_changed(corruption: str) -> None:
    table = rows(40)
    prep = fitted(table)
    batch = batch_of(table, prep)
    found = view("corrupted", batch, prep, corruption=corruption, level=0.5)
    assert found.mask is not None
    torch.testing.assert_close(found.target, view("whole", batch, prep).x)
    starts = np.cumsum([0, *(one["values"] + 1 for one in prep.settings["features"])])
    for j in range(found.mask.shape[1]):
        differs = (found.x[:, starts[j] : starts[j + 1]] != found.target[:, starts[j] : starts[j + 1]]).any(1)  # type: ignore[index]
        assert (differs <= found.mask[:, j]).all()
        assert (found.mask[:, j] & ~differs).float().mean() < 0.1  # other numbers may have one score
    assert 0.2 < found.mask.float().mean() < 0.55


@pytest.mark.parametrize("name", VIEWS)
def test_views_are_the_same_whatever_the_other_rows(name: str) -> None:
    table = rows(30)
    prep = fitted(table)
    batch = batch_of(table, prep)
    all_rows = view(name, batch, prep)
    some = view(name, {key: value[7:9] for key, value in batch.items()}, prep)
    assert torch.equal(all_rows[7:9].x, some.x)
    assert all_rows.mask is None or torch.equal(all_rows.mask[7:9], some.mask)  # type: ignore[arg-type]


def test_wrong_options_are_named() -> None:
    assert TABLE.check({"corruption": "marginal", "level": 1.5}) is not None
    assert "corruption=salt" in str(TABLE.check({"corruption": "salt", "level": 0.5}))
    assert TABLE.check(VIEWS["multiblock"]) is None


def test_the_layout_is_made_once() -> None:
    prep = fitted(rows())
    assert layout_of(prep, torch.device("cpu")) is layout_of(prep, torch.device("cpu"))


def test_raw_is_numbers_and_indicators() -> None:
    table = rows(30)
    prep = fitted(table)
    batch = batch_of(table, prep)
    raw = TABLE.raw(batch, prep)
    assert np.isfinite(raw).all()
    at = 0
    for j, feature in enumerate(features_of(prep)):
        cells = batch["cells"][:, j].numpy()
        if feature.values is None:
            np.testing.assert_array_equal(raw[:, at], np.nan_to_num(cells))
            at += 1
        else:
            for code in range(len(feature.values)):
                np.testing.assert_array_equal(raw[:, at], cells == code)
                at += 1
        if feature.missing:
            np.testing.assert_array_equal(raw[:, at], np.isnan(cells))
            at += 1
    assert at == raw.shape[1]


# --------------------------------------------------------------------------------------------------------- other columns


def test_columns_of_another_table_are_kept_added_or_dropped(capsys: pytest.CaptureFixture[str]) -> None:
    prep = fitted(rows(2000))
    table = [{"height": float(i % 7), "colour": "red" if i % 2 else "violet", "age": 90 + i} for i in range(40)]
    capsys.readouterr()
    other = extend([{"table": row} for row in table], prep)
    said = capsys.readouterr().err
    assert "2 as in pretraining: age, colour" in said
    assert "1 new, whose weights are drawn: height" in said
    assert "2 of pretraining not in this table, dropped: weight, day" in said
    check_files(other.settings, other.files)
    assert [one["name"] for one in other.settings["features"]] == ["age", "colour", "height"]
    assert other.settings["features"][:2] == [one for one in prep.settings["features"] if one["name"] in ("age", "colour")]
    before = prep.decode({"table": rows(2000)[3]})["cells"]
    after = other.decode({"table": {**rows(2000)[3], "height": 3.0}})["cells"]
    np.testing.assert_array_equal(after[:2], before[[0, 2]])
    assert after[2] == pytest.approx(0.0, abs=0.1)
    assert view("whole", batch_of(table, other), other).x.shape == (40, sum(one["values"] + 1 for one in other.settings["features"]))


def test_the_same_columns_and_those_left_out_before_change_nothing() -> None:
    table = rows(60, number=list(range(60)))  # numbers the rows: left out
    prep = fitted(table)
    assert extend([{"table": row} for row in table], prep) is prep


def test_a_new_column_without_information_is_not_added() -> None:
    prep = fitted(rows())
    assert extend([{"table": {**row, "same": 1}} for row in rows()], prep) is prep


def test_a_table_without_shared_columns_is_one_line() -> None:
    with pytest.raises(UserError, match="shares no column with the one the encoder was trained on: age, weight, colour, day"):
        extend([{"table": {"height": float(i)}} for i in range(9)], fitted(rows()))


# ---------------------------------------------------------------------------------------------------- pictures and answers


def test_a_view_is_read_back_as_the_row(capsys: pytest.CaptureFixture[str]) -> None:
    table = rows()
    prep = fitted(table)
    x = view("whole", batch_of(table, prep), prep).x
    found = dict(zip([(one.column, one.part) for one in features_of(prep)], values_of_features(x, prep), strict=True))
    assert found["age", ""] == pytest.approx([row["age"] for row in table], abs=0.01)
    assert [name for name, row in zip(found["colour", ""], table, strict=True) if row["colour"]] == [
        row["colour"] for row in table if row["colour"]
    ]
    assert found["day", "day"] == [row["day"].date().isoformat() for row in table]


def test_a_picture_marks_what_is_hidden_and_what_is_redrawn() -> None:
    table = rows()
    prep = fitted(table)
    batch = batch_of(table, prep)
    plain = TABLE.render(view("whole", batch, prep), {}, prep)
    assert plain.shape == (60, 96, 210, 3)
    at = {one.column: line for line, one in reversed(list(enumerate(f for f in features_of(prep) if f.part in ("", "day"))))}
    background = lambda pixels, line: pixels[:, 1 + 13 * line, -1]  # noqa: E731
    seen = view("masked", batch, prep)
    pixels = TABLE.render(seen, {}, prep)
    places = [place for place, one in enumerate(features_of(prep)) if one.part in ("", "day")]
    assert seen.mask is not None
    for line, place in enumerate(places):
        grey = (background(pixels, line) == 205).all(1)
        assert grey.tolist() == seen.mask[:, place].tolist()
    changed = view("corrupted", batch, prep)
    pixels = TABLE.render(changed, {}, prep)
    assert changed.mask is not None
    orange = (background(pixels, at["age"]) == (255, 214, 153)).all(1)
    assert orange.tolist() == changed.mask[:, 0].tolist()
    subset = view("corrupted", batch, prep, corruption="missing")
    assert subset.mask is not None
    assert ((background(TABLE.render(subset, {}, prep), at["age"]) == 205).all(1)).tolist() == subset.mask[:, 0].tolist()
    scarf = view("global", batch, prep)
    assert scarf.meta is not None
    assert (background(TABLE.render(scarf, {}, prep), 0) == (255, 214, 153)).all(1).tolist() == scarf.meta["changed"][:, 0].tolist()


def test_an_answer_is_measured_and_given_in_the_columns_units() -> None:
    table = rows()
    prep = fitted(table)
    batch = batch_of(table, prep)
    whole = view("whole", batch, prep)
    found = TABLE.pretexts["whole"].measure(whole, whole.x, {}, prep)
    assert found["rmse"].max() == 0
    assert list(found) == ["rmse", "age.restored", "weight.restored", "colour.restored", "day.restored"]
    assert found["age.restored"].tolist() == pytest.approx([row["age"] for row in table], abs=0.01)
    layout = layout_of(prep, torch.device("cpu"))
    wrong = whole.x.clone()
    wrong[:, layout.score_at[0]] += 1.0
    counted = [
        sum(
            int(layout.slots[j, p]) < layout.width
            for j in range(len(layout.slots))
            for p in range(layout.slots.shape[1])
            if whole.x[i, layout.missing_at[j]] == 0
        )
        for i in range(60)
    ]
    assert TABLE.pretexts["whole"].measure(whole, wrong, {}, prep)["rmse"] == pytest.approx([n**-0.5 for n in counted], rel=1e-5)
    masked = view("masked", batch, prep)
    assert masked.target is not None
    assert masked.mask is not None
    answer = torch.where(masked.mask.unsqueeze(2), masked.target, masked.target)
    found = TABLE.pretexts["masked"].measure(masked, answer, {}, prep)
    assert found["rmse"].max() == 0
    assert found["age.restored"].tolist() == pytest.approx([row["age"] for row in table], abs=0.01)
    assert TABLE.pretexts["masked"].render(masked, {}, prep).shape == (60, 96, 210, 3)


def test_many_columns_are_counted_in_a_picture() -> None:
    wide = [{f"c{j}": float(i * j % 7) + i for j in range(40)} for i in range(30)]
    prep = fitted(wide)
    assert TABLE.render(view("whole", batch_of(wide, prep), prep), {}, prep).shape[1] == 13 * 25 + 2


def test_a_number_that_is_drawn_again_has_not_changed() -> None:
    table = [{"hours": 40 if i % 4 else 20 + i, "age": float(i)} for i in range(300)]
    prep = fitted(table)
    found = view("corrupted", batch_of(table, prep), prep, level=1.0)
    assert found.mask is not None
    before = view("whole", batch_of(table, prep), prep).x
    assert torch.equal(found.mask[:, 0], ~torch.isclose(found.x[:, 0], before[:, 0], atol=1e-5))
    assert 0.3 < found.mask[:, 0].float().mean() < 0.55  # 40 is drawn at 40 in 0.75 ** 2 of the rows
