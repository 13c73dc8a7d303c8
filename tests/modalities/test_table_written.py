"""Numbers and dates as people write them in tables."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from untaught.core import Preprocessor
from untaught.data.written import form_of, plain_form
from untaught.modalities.table import TABLE
from untaught.modalities.table.columns import learn, plan


@pytest.mark.parametrize(
    ("form", "text", "plain"),
    [
        ("1,234.5", "1,234,567.80", "1234567.80"),
        ("1,234.5", "-$1,000", "-1000"),
        ("1,234.5", "45 %", "45"),
        ("1,234.5", "12,34", None),
        ("1,234.5", "007", None),
        ("1.234,5", "1.234.567,80", "1234567.80"),
        ("1.234,5", "1 234,5 €", "1234.5"),
        ("1.234,5", "1'234", "1234"),
        ("1.234,5", "0,5", "0.5"),
        ("1.234,5", "1.23", None),
        ("1.234,5", "030 123 456", None),
        ("d.m.y", "1.12.2020", "2020-12-01"),
        ("d.m.y", "31.12.2020 7:05", "2020-12-31 07:05"),
        ("d/m/y", "31/12/2020", "2020-12-31"),
        ("d/m/y", "12/31/2020", None),
        ("m/d/y", "12/31/2020 23:59:01", "2020-12-31 23:59:01"),
        ("y/m/d", "2020/1/2", "2020-01-02"),
        ("y/m/d", "2020/13/02", None),
    ],
)
def test_texts_of_a_form_become_plain(form: str, text: str, plain: str | None) -> None:
    assert plain_form(text, form) == plain


@pytest.mark.parametrize(
    ("values", "form"),
    [
        (["12,5", "3,25", "1.000,0"], "1.234,5"),
        (["1,200.5", "999", "3.5"], "1,234.5"),
        (["$12", "$7"], "1,234.5"),
        (["31/12/2020", "01/02/2020"], "d/m/y"),
        (["12/31/2020", "01/02/2020"], "m/d/y"),
        (["1.2", "3"], ""),
        (["red", "blue"], ""),
        ([1.0, 2.5], ""),
        (["2020-01-02", "2021-03-04"], ""),
    ],
)
def test_the_form_of_a_column_is_the_one_that_its_values_have(values: list[Any], form: str) -> None:
    assert form_of(values, 0.95) == (form, "")


@pytest.mark.parametrize(("values", "example"), [(["1,234", "5,678"], "1,234"), (["01/02/2020", "03/04/2020"], "01/02/2020")])
def test_two_readings_are_a_doubt_not_a_guess(values: list[str], example: str) -> None:
    form, doubt = form_of(values, 0.95)
    assert form == ""
    assert example in doubt


def test_a_written_column_reads_as_the_plain_one(capsys: pytest.CaptureFixture[str]) -> None:
    prices = np.random.default_rng(0).normal(2000, 700, 60).round(2)
    german = [f"{price:,.2f} €".translate(str.maketrans(",.", ".,")) for price in prices]
    rows = [{"price": text, "day": f"{1 + i % 28}.{1 + i % 12}.2024"} for i, text in enumerate(german)]
    plain = [{"price": float(price), "day": f"2024-{1 + i % 12:02}-{1 + i % 28:02}"} for i, price in enumerate(prices)]
    written, usual = fitted(rows), fitted(plain)
    assert "1 read as numbers: price" in capsys.readouterr().err
    for one, other in zip(rows, plain, strict=True):
        np.testing.assert_allclose(written.decode({"table": one})["cells"], usual.decode({"table": other})["cells"], rtol=1e-6)
    assert np.isnan(written.decode({"table": {"price": "about 5", "day": "1.1.2024"}})["cells"][0])


def test_dates_of_two_readings_are_left_out_and_said(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"age": i % 7, "day": f"{1 + i % 12:02}/{1 + i // 12:02}/{2000 + i}"} for i in range(120)]
    prep = fitted(rows)
    assert [one["name"] for one in prep.settings["features"]] == ["age"]
    assert "day is left out: it may be written as d/m/y or as m/d/y, e.g. 02/01/2001: write 2020-12-31" in capsys.readouterr().err


def fitted(rows: list[dict[str, Any]]) -> Preprocessor:
    records = [{"table": row} for row in rows]
    settings, files = learn(records, plan(records, {}))
    return Preprocessor(TABLE, settings, files=files)
