from collections.abc import Callable
from pathlib import Path

import pytest

from sails_eval.core.errors import UserError
from sails_eval.core.files import parse_json, read_csv, read_json
from sails_eval.core.schema import read_mapping
from sails_eval.data.reading import read_examples


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


@pytest.mark.parametrize("name", ["d.jsonl", "d.yaml", "d.json"])
def test_what_may_have_no_end_is_not_read(tmp_path: Path, name: str) -> None:
    (tmp_path / name).symlink_to("/dev/zero")
    reads: dict[str, Callable[[Path], object]] = {".jsonl": read_examples, ".yaml": read_mapping, ".json": read_json}
    with pytest.raises(UserError, match=f"{name}: a device or a pipe; write what it gives to a file"):
        reads[Path(name).suffix](tmp_path / name)


def test_json_that_python_refuses_gives_no_advice_about_python() -> None:
    with pytest.raises(UserError, match=r"^a.json: not valid JSON \(Exceeds the limit [^;]*\)$"):
        parse_json("a.json", "9" * 5000)
