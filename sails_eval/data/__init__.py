"""Training and contrast data: files, data sets on the hub and mixtures, read into requests and their answers."""

from sails_eval.data.dialogues import Example, Message
from sails_eval.data.files import Row, read_rows
from sails_eval.data.reading import (
    DataFile,
    Requests,
    Texts,
    pinned,
    read_contrast,
    read_examples,
    read_requests,
    read_texts,
)
from sails_eval.data.sources import Data, Mixture, Selection, as_data, origins, starting_at

__all__ = [
    "Data", "DataFile", "Example", "Message", "Mixture", "Requests", "Row", "Selection", "Texts", "as_data", "origins",
    "pinned", "read_contrast", "read_examples", "read_requests", "read_rows", "read_texts", "starting_at",
]  # fmt: skip
