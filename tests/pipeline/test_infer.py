"""Which modality data are of, where none is given."""

from pathlib import Path

import pytest

from untaught.core import UserError
from untaught.pipeline.infer import chosen_modality


def test_a_folder_without_files_is_named_before_any_modality_is_tried(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    with pytest.raises(UserError, match=r"has no files; put images or .* there, or check the path") as raised:
        chosen_modality(None, str(tmp_path))
    assert "allowed: files ending in" not in str(raised.value)
    (tmp_path / "inner" / "notes.xyz").write_text("1")
    with pytest.raises(UserError, match="can't be recognised"):
        chosen_modality(None, str(tmp_path))


def test_a_user_an_item_and_a_time_are_events_though_all_are_numbers(tmp_path: Path) -> None:
    rows = "".join(f"{i % 4},{(i * 7) % 5},{i}\n" for i in range(40))
    (tmp_path / "log.csv").write_text(f"user,item,time\n{rows}")
    assert chosen_modality(None, str(tmp_path / "log.csv")).name == "events"
    (tmp_path / "sensor.csv").write_text(f"a,b,time\n{rows}")
    assert chosen_modality(None, str(tmp_path / "sensor.csv")).name == "series"


def test_named_columns_tell_the_modality_that_has_them(tmp_path: Path) -> None:
    log = tmp_path / "log.csv"
    log.write_text("customer,bought,day\n" + "".join(f"{i % 4},{(i * 7) % 5},2026-{i // 28 + 1:02}-{i % 28 + 1:02}\n" for i in range(40)))
    assert chosen_modality(None, str(log), {"user": "customer", "item": "bought"}).name == "events"
    assert chosen_modality(None, str(log), {"time": "day", "id": "customer", "series": "bought"}).name == "series"
    with pytest.raises(UserError, match=r"^no column custmer in .*log.csv; its columns are customer, bought, day"):
        chosen_modality(None, str(log), {"user": "custmer", "item": "bought"})


def test_numbers_are_no_documents_whatever_their_column_is_called(tmp_path: Path) -> None:
    animals = tmp_path / "animals.csv"
    animals.write_text("name,body,brain\nMountain beaver,1.35,8.1\nCow,465,423\n")
    assert chosen_modality(None, str(animals)).name == "table"
    animals.write_text("name,body,brain\nMountain beaver,a small one,8.1\nCow,a large one,423\n")
    assert chosen_modality(None, str(animals)).name == "text"
