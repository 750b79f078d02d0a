from pathlib import Path

import pytest

from sails_eval.core.errors import UserError
from sails_eval.core.files import parse_json, read_csv


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff\xfe\x00", "board.csv: not a valid CSV file in UTF-8 "),
        (b"", "board.csv: empty; expected a header and rows"),
        (b"a,b\n1\n", "board.csv:2: 1 cells, but the header has 2 columns"),
    ],
)
def test_what_is_no_csv_is_an_error(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "board.csv").write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_csv(tmp_path / "board.csv")


def test_json_that_python_refuses_gives_no_advice_about_python() -> None:
    with pytest.raises(UserError, match=r"^a.json: not valid JSON \(Exceeds the limit [^;]*\)$"):
        parse_json("a.json", "9" * 5000)
