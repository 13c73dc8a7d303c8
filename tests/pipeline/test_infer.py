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
