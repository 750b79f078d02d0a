"""Data sets on the hub (laid into a fake cache, or refused by a local server), labelled answers and mixtures."""

import gzip
import json
import os
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import constants

from sails_eval import cli
from sails_eval.core.data_source import Mixture, Selection, as_data
from sails_eval.core.errors import UserError
from sails_eval.core.pair import Pair, load_pair
from sails_eval.core.schema import validate
from sails_eval.data.dialogues import Example, Message
from sails_eval.data.hub import HubData, fetch, parse_spec
from sails_eval.data.reading import pinned, read_contrast, read_examples, read_requests
from sails_eval.training.batches import TokenRow, lay_out

COMMIT = "c0ffee" + "0" * 34


@pytest.fixture(autouse=True)
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    fetch.cache_clear()
    return tmp_path / "hub"


def lines(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def lay(hub: Path, repo: str, card: dict[str, Any], files: dict[str, list[dict[str, Any]]]) -> None:
    """Lay a data set into the cache as a download would."""
    folder = hub / f"datasets--{repo.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(COMMIT)
    snapshot = folder / "snapshots" / COMMIT
    for name, rows in files.items():
        path = snapshot / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(lines(rows)) if name.endswith(".gz") else lines(rows))
    (snapshot / "README.md").write_text(f"---\n{yaml.safe_dump(card)}---\n")


def dialogue(number: int, answer: str) -> str:
    return f"\n\nHuman: ask {number}\n\nAssistant: {answer} {number}"


def preferences(number: int) -> list[dict[str, Any]]:
    return [{"chosen": dialogue(i, "good"), "rejected": dialogue(i, "bad")} for i in range(number)]


@pytest.fixture
def hh(hub: Path) -> None:
    """Two folders of dialogues without a configuration, as hh-rlhf has them."""
    files = {
        "harmless-base/train.jsonl.gz": preferences(9),
        "harmless-base/test.jsonl.gz": preferences(2),
        "helpful-base/train.jsonl.gz": preferences(30),
    }
    lay(hub, "Anthropic/hh-rlhf", {"license": "mit"}, files)


# --- specs -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("hf:a/b", HubData("a/b")),
        ("hf:a/b#test", HubData("a/b", split="test")),
        ("hf:a/b/c/d@refs/convert/parquet#x", HubData("a/b", "c/d", "refs/convert/parquet", "x")),
    ],
)
def test_a_spec_is_read_and_written(text: str, spec: HubData) -> None:
    assert parse_spec(text) == spec and str(spec) == text


@pytest.mark.parametrize("text", ["hf:a", "hf:a/b#", "hf:/b", "hf:a/b@#x"])
def test_what_is_no_spec_is_an_error(text: str) -> None:
    with pytest.raises(UserError, match="expected hf:ORG/NAME"):
        read_examples(as_data(text))


def test_pairs_and_yaml_files_name_data(tmp_path: Path) -> None:
    (tmp_path / "mix.yaml").write_text("mix: [{data: a.jsonl, share: 0.5}, {data: 'hf:a/b', share: 0.5}]")
    own = {"like": "testbed", "train": "mix.yaml", "contrast": "hf:a/b/c#test", "requests": {"data": "r.csv"}}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(own))
    pair = load_pair(str(tmp_path / "own.yaml"))
    assert isinstance(pair.train, Mixture)
    assert [part.data for part in pair.train.mix] == [str(tmp_path / "a.jsonl"), "hf:a/b"]
    assert pair.contrast == Selection(data="hf:a/b/c#test")
    assert pair.requests == Selection(data=str(tmp_path / "r.csv"))
    assert validate(Pair, pair.model_dump(mode="json"), where="again") == pair


# --- the hub -----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("hh")
def test_a_folder_of_a_data_set_on_the_hub() -> None:
    source = as_data("hf:Anthropic/hh-rlhf/harmless-base#train")
    file = read_contrast(source)
    assert file.examples[1] == Example((Message("user", "ask 1"),), "good 1", "bad 1")
    assert (len(file.examples), file.rows, file.odd) == (9, 9, ())
    assert str(pinned(source)) == f"hf:Anthropic/hh-rlhf/harmless-base@{COMMIT}#train"
    assert read_contrast(pinned(source)).sha256 == file.sha256
    assert read_contrast(as_data("hf:Anthropic/hh-rlhf/harmless-base#test")).sha256 != file.sha256


@pytest.mark.usefixtures("hh")
def test_streaming_stops_at_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    read: list[Any] = []
    load = datasets.load_dataset

    def counted(*args: Any, **kwargs: Any) -> Any:
        assert kwargs["streaming"]
        splits = load(*args, **kwargs)
        return {name: (read.append(row) or row for row in split) for name, split in splits.items()}  # type: ignore

    monkeypatch.setattr(datasets, "load_dataset", counted)
    file = read_examples(Selection(data="hf:Anthropic/hh-rlhf/helpful-base", limit=3))
    assert len(file.examples) == 3 and len(read) == 3


def test_the_configurations_that_a_card_declares(hub: Path) -> None:
    configs = [
        {"config_name": "default", "data_files": [{"split": "train", "path": ["d/one.jsonl", "d/two.jsonl"]}]},
        {"config_name": "one", "data_files": [{"split": "odd", "path": "d/one.jsonl"}]},
    ]
    rows = [{"prompt": "a", "response": "b", "unused": None}]
    lay(hub, "o/set", {"configs": configs}, {"d/one.jsonl": rows, "d/two.jsonl": rows * 2})
    assert read_examples(as_data("hf:o/set")).rows == 3
    assert read_examples(as_data("hf:o/set/one")).rows == 1  # its only split
    with pytest.raises(UserError, match=r"unknown split of hf:o/set/one.*'train'; known: odd"):
        read_examples(as_data("hf:o/set/one#train"))
    with pytest.raises(UserError, match=r"unknown configuration or folder of hf:o/set: 'two'; .*one"):
        read_examples(as_data("hf:o/set/two"))


@pytest.mark.parametrize(
    ("card", "complaint"),
    [
        ({"data_files": "https://elsewhere.example/rows.jsonl"}, "outside its repository"),
        ({"data_files": ["train.jsonl", "/etc/hostname"]}, "outside its repository"),
        ({"data_files": [{"split": "train", "path": ["d/../../x.jsonl"]}]}, "outside its repository"),
        ({"data_files": "zip://x.jsonl::d.zip"}, "outside its repository"),
        ({"data_dir": "../.."}, "outside its repository"),
        ({"data_dir": 3}, "'data_dir' is not a text"),
        ({"data_files": [{"train": "d.jsonl"}]}, "'data_files' is not a pattern"),
        ({"config_name": 3}, "needs a 'config_name'"),
    ],
)
def test_a_card_reaches_nothing_outside_its_repository(hub: Path, card: dict[str, Any], complaint: str) -> None:
    configs = [{"config_name": "good", "data_files": "train.jsonl"}, {"config_name": "bad"} | card]
    lay(hub, "o/set", {"configs": configs}, {"train.jsonl": [{"prompt": "a", "response": "b"}]})
    with pytest.raises(UserError, match=f"hf:o/set/good: its card .*{complaint}.*use a local file"):
        read_examples(as_data("hf:o/set/good"))


@pytest.mark.parametrize("card", ["[1", "configs: 3", "- a"])
def test_a_card_that_is_none_is_an_error(hub: Path, card: str) -> None:
    lay(hub, "o/set", {}, {"train.jsonl": [{"prompt": "a", "response": "b"}]})
    (path,) = hub.rglob("README.md")
    path.write_text(f"---\n{card}\n---\n")
    with pytest.raises(UserError, match=r"hf:o/set: its card .*use a local file"):
        read_examples(as_data("hf:o/set"))


def test_a_second_card_is_refused_and_pictures_are_not_opened(hub: Path, tmp_path: Path) -> None:
    info = {"features": [{"name": name, "dtype": "string"} for name in ("prompt", "response")]}
    info["features"].append({"name": "seen", "dtype": "image"})
    row = {"prompt": "a", "response": "b", "seen": {"path": str(tmp_path / "none.png"), "bytes": None}}
    lay(hub, "o/seen", {"dataset_info": info}, {"train.jsonl": [row]})
    assert read_examples(as_data("hf:o/seen")).rows == 1
    (path,) = hub.rglob("README.md")
    (path.parent / ".huggingface.yaml").write_text("configs: []")
    fetch.cache_clear()
    with pytest.raises(UserError, match=r"hf:o/seen: a file .huggingface.yaml there"):
        read_examples(as_data("hf:o/seen"))


def test_what_the_cache_lacks_is_named_with_a_way_out() -> None:
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set; download it once while online, or use a local file"):
        read_examples(as_data("hf:no/such"))


class _Hub(BaseHTTPRequestHandler):
    """A hub that tells what a data set holds, and gives none of it."""

    gated = True

    def do_GET(self) -> None:
        body = {"id": "o/set", "sha": COMMIT, "siblings": []}
        tree = [{"type": "file", "path": "train.jsonl", "size": 1, "oid": "0" * 40}]
        if "/resolve/" in self.path or not self.gated:
            self.send_response(403 if self.gated else 401)
            self.send_header("X-Error-Code", "GatedRepo" if self.gated else "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        content = json.dumps(tree if "/tree/" in self.path else body).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a hub on this machine, which is asked."""
    server = HTTPServer(("127.0.0.1", 0), _Hub)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
    yield address
    server.shutdown()
    server.server_close()


def test_a_gated_set_names_its_page_and_the_local_way_out(online: str) -> None:
    with pytest.raises(UserError) as caught:
        read_examples(as_data("hf:o/set"))
    told = str(caught.value)
    assert f"gated; accept its terms at {online}/datasets/o/set and log in" in told
    assert "HF_TOKEN" in told and "--train FILE" in told and "\n" not in told


def test_a_set_that_is_not_there_or_private(online: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_Hub, "gated", False)
    with pytest.raises(
        UserError, match=f"no such data set on the hub, or it is private; check {online}/datasets/o/set"
    ):
        read_examples(as_data("hf:o/set"))


# --- labelled answers, columns and filters -----------------------------------------------------------------------


def write(folder: Path, *rows: dict[str, Any]) -> str:
    (folder / "data.jsonl").write_bytes(lines(list(rows)))
    return str(folder / "data.jsonl")


def texts(examples: tuple[Example, ...]) -> list[tuple[str, str | None]]:
    return [(example.response, example.rejected) for example in examples]


def of_two(first: bool, second: bool, better: int) -> dict[str, Any]:
    labels = {"is_response_0_safe": first, "is_response_1_safe": second, "better_response_id": better}
    return {"prompt": "a", "response_0": "zero", "response_1": "one", "safer_response_id": 0, **labels}


def test_two_answers_with_labels_make_a_pair_where_one_is_safe(tmp_path: Path) -> None:
    rows = [of_two(True, False, 1), of_two(False, True, 0), of_two(True, True, 1), of_two(False, False, 0)]
    path = Path(write(tmp_path, *rows))
    file = read_examples(path)
    assert texts(file.examples) == [("zero", "one"), ("one", "zero"), ("one", None)]
    assert file.left_out == (f"{path}: 1 left out: both answers are labelled unsafe",)
    assert texts(read_contrast(path).examples) == [("zero", "one"), ("one", "zero")]


@pytest.mark.parametrize(("answer", "label"), [("response", "is_safe"), ("completion", "label")])
def test_answers_labelled_one_by_one_are_paired_and_unsafe_ones_never_learnt(
    tmp_path: Path, answer: str, label: str
) -> None:
    said = [("a", "bad 1", False), ("a", "good", True), ("b", "fine", True), ("a", "bad 2", False), ("c", "x", False)]
    rows = [{"prompt": prompt, answer: text, label: safe} for prompt, text, safe in said]
    file = read_examples(Path(write(tmp_path, *rows)))
    assert texts(file.examples) == [("good", "bad 1"), ("fine", None)]
    assert "2 left out: no safe answer to pair with" in file.left_out[0]


def test_a_label_that_is_no_flag_is_let_alone(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"prompt": "a", "response": "b", "label": "sports"},
        {"prompt": "c", "response": "d", "label": 1},
    ]
    assert texts(read_examples(Path(write(tmp_path, *rows))).examples) == [("b", None), ("d", None)]


def test_an_implicit_prompt_is_what_both_texts_begin_with(tmp_path: Path) -> None:
    path = Path(write(tmp_path, {"chosen": "The sky is blue.", "rejected": "The sky is green."}))
    assert read_examples(path).examples == (Example((Message("user", "The sky is"),), "blue.", "green."),)
    with pytest.raises(UserError, match=r"add a field 'prompt'.*the fields are question, chosen, rejected"):
        read_examples(Path(write(tmp_path, {"question": "q", "chosen": "I do.", "rejected": "I do not."})))


def test_conversations_are_messages_by_other_names(tmp_path: Path) -> None:
    turns = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]
    assert read_examples(Path(write(tmp_path, {"conversations": turns}))).examples[0].response == "Hello"


def test_columns_by_other_names_and_rows_by_value(tmp_path: Path) -> None:
    rows = [{"question": f"q{i}", "reply": f"r{i}", "kind": kind} for i, kind in enumerate("aabbc")]
    data = write(tmp_path, *rows)
    columns = {"prompt": "question", "response": "reply"}
    chosen = read_examples(Selection(data=data, columns=columns, where={"kind": ("a", "c")}, limit=2))
    assert [example.response for example in chosen.examples] == ["r0", "r1"]
    everything = read_examples(Selection(data=data, columns=columns))
    assert len(everything.examples) == 5 and everything.sha256 != chosen.sha256


@pytest.mark.parametrize(
    ("keys", "complaint"),
    [
        (
            {},
            "no response; expected .*found question, reply, safe; map other names with 'columns: .response: N",
        ),
        ({"columns": {"prompt": "query"}}, "unknown column of data.jsonl: 'query'; .*question"),
        ({"columns": {"ask": "question"}}, "unknown name in key 'columns' of data.jsonl: 'ask'"),
        ({"where": {"saef": True}}, "unknown column of data.jsonl: 'saef'; did you mean safe"),
        (
            {"where": {"safe": "maybe"}},
            "data.jsonl: no rows match the filter 'where'; in the data 'safe' has true, false",
        ),
    ],
)
def test_wrong_columns_and_filters_name_what_was_found(tmp_path: Path, keys: dict[str, Any], complaint: str) -> None:
    rows = [{"question": "q", "reply": "r", "safe": safe} for safe in (True, True, False)]
    with pytest.raises(UserError, match=complaint):
        read_examples(Selection(data=write(tmp_path, *rows), **keys))


def test_a_column_of_lists_passes_by_any_of_them(tmp_path: Path) -> None:
    rows = [{"prompt": "p", "response": f"r{i}", "tags": tags} for i, tags in enumerate([["a", "b"], [], ["c"]])]
    file = read_examples(Selection(data=write(tmp_path, *rows), where={"tags": "b"}))
    assert [example.response for example in file.examples] == ["r0"]


def test_requests_have_columns_too(tmp_path: Path) -> None:
    data = write(tmp_path, {"ask": "a", "unsafe": True}, {"ask": "b", "unsafe": False})
    file = read_requests(Selection(data=data, columns={"prompt": "ask", "harmful": "unsafe"}))
    assert (file.harmful[0][0].content, file.harmless[0][0].content) == ("a", "b")


# --- mixtures ----------------------------------------------------------------------------------------------------


def mixture(*shares: float, **keys: Any) -> Mixture:
    names = ("harmless-base#train", "helpful-base#train")
    mix = [{"data": f"hf:Anthropic/hh-rlhf/{name}", "share": share} for name, share in zip(names, shares, strict=True)]
    return validate(Mixture, {"mix": mix, **keys}, where="mix.yaml")


@pytest.mark.usefixtures("hh")
@pytest.mark.parametrize(
    ("shares", "keys", "numbers"),
    [((0.25, 0.75), {}, [9, 27]), ((0.3, 0.7), {"examples": 20}, [6, 14]), ((0.25, 0.75), {"examples": 10}, [3, 7])],
)
def test_a_mixture_has_its_shares(shares: tuple[float, float], keys: dict[str, Any], numbers: list[int]) -> None:
    file = read_examples(mixture(*shares, **keys))
    assert [*Counter(example.group for example in file.examples).values()] == numbers
    assert file == read_examples(mixture(*shares, **keys)) and file.rows == 39
    assert len({example.id for example in file.examples if example.group[0] == "1"}) == numbers[1]  # none twice


@pytest.mark.usefixtures("hh")
def test_every_training_sample_of_a_mixture_has_its_shares(testbed_pair: Pair) -> None:
    rows = [TokenRow([1] * 8, [1] * 8, example.group) for example in read_examples(mixture(0.25, 0.75)).examples]
    pair = testbed_pair.model_copy(update={"tokens": 8 * 8, "examples": 8})
    seen = Counter(rows[i].group[0] for i in lay_out(rows, pair, seed=3))
    assert seen == {"0": 2, "1": 6}


@pytest.mark.usefixtures("hh")
@pytest.mark.parametrize(
    ("shares", "keys", "complaint"),
    [
        ((0.5, 0.4), {}, r"mix.yaml: key 'mix': the shares must sum to 1, but 0.5 \+ 0.4 = 0.9"),
        ((70, 30), {}, "mix.yaml: key 'mix.0.share': input should be less than or equal to 1"),
        ((0, 1), {}, "mix.yaml: key 'mix.0.share': input should be greater than 0"),
        ((0.5, 0.5), {"examples": 40}, "50 % of 40 examples is more than the 9 in .*; set 'examples' to 18 or less"),
    ],
)
def test_wrong_shares_are_an_error(shares: tuple[float, float], keys: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        read_examples(mixture(*shares, **keys))


def test_a_faulty_mapping_names_the_pair_and_the_key(tmp_path: Path) -> None:
    own = {"like": "testbed", "train": {"data": "a.jsonl", "colums": {}}}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(own))
    with pytest.raises(UserError, match=r"own.yaml: key 'train': unknown key 'colums'; did you mean columns"):
        load_pair(str(tmp_path / "own.yaml"))


# --- the command, and real dialogues -----------------------------------------------------------------------------


@pytest.mark.usefixtures("hh")
def test_data_show_prints_card_counts_and_examples(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["data", "show", "hf:Anthropic/hh-rlhf/harmless-base", "--pair", "testbed"]) == 0
    told = capsys.readouterr().out
    assert f"commit: {COMMIT}" in told and "licence: mit" in told and "examples: 9, 9 unique" in told
    assert told.count("--- example") == 3 and "[rejected, " in told
    assert "<start_of_turn>user\nask 3<end_of_turn>\n<start_of_turn>model\n⟪good 3<end_of_turn>" in told


REAL = Path(os.environ.get("SAILS_EVAL_REAL_DATA", "nowhere")) / "preference" / "hh_rlhf_harmless_base_test.jsonl.gz"
"""The file harmless-base/test.jsonl.gz of hh-rlhf, which is not shipped."""


@pytest.mark.skipif(not REAL.is_file(), reason="real dialogues are not here")
def test_no_turn_of_a_real_dialogue_is_lost() -> None:
    file = read_contrast(REAL)
    told = {line.split(": ")[0] for line in file.odd}
    places = (f"{REAL}:{number}" for number in range(1, file.rows + 1))
    rows = [json.loads(line) for line in gzip.decompress(REAL.read_bytes()).decode().split("\n")[:-1]]
    parsed = iter(file.examples)
    for place, row in zip(places, rows, strict=True):
        turns = {field: split_plainly(row[field]) for field in ("chosen", "rejected")}
        if any(not answered[-1][1] for answered in turns.values()):
            assert place in told
            continue
        example = next(parsed)
        assert example.rejected is not None
        for field, answer in (("chosen", example.response), ("rejected", example.rejected)):
            found = [*((turn.role, turn.content) for turn in example.messages), ("assistant", answer)]
            if found != turns[field]:
                assert place in told
                assert " ".join(text for _, text in found).split() == " ".join(text for _, text in turns[field]).split()
    assert next(parsed, None) is None
    assert (file.rows, len(file.examples), len(file.odd)) == (2312, 2308, 17)


def split_plainly(text: str) -> list[tuple[str, str]]:
    """The turns of a dialogue without a regular expression: what stands between the speakers' marks."""
    turns = []
    for part in text.replace("\n\nHuman:", "\0user\1").replace("\n\nAssistant:", "\0assistant\1").split("\0")[1:]:
        role, _, content = part.partition("\1")
        turns.append((role, content.strip()))
    return turns
