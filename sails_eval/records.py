"""What the `utils.py` of task folders made by `tasks new` imports."""

from sails_eval.core.files import read_jsonl as read_jsonl
