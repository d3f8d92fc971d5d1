from pathlib import Path

import pytest

from piggyback.shell.errors import BadInput
from piggyback.suite.results import load_result


@pytest.mark.parametrize("text", [None, "{", '{"schema_version": 1}', '{"benchmark": NaN}'])
def test_a_damaged_result_is_bad_input_and_names_the_file(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "result.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(BadInput, match=r"result\.json"):
        load_result(path)
