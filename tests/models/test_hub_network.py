"""What the environment says of the network is told in one line before the hub is asked."""

from pathlib import Path

import pytest
from huggingface_hub import constants

from sails_eval.core.errors import UserError
from sails_eval.data.hub import parse_spec, snapshot
from sails_eval.models.hub import fetch, has_chat_template, lacks_access
from sails_eval.models.identity import commit_of


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("SSL_CERT_FILE", "/no.pem", r"^SSL_CERT_FILE=/no\.pem: No such file or directory; correct or unset it$"),
        ("https_proxy", "http://me:word@host:port", "^HTTPS_PROXY is not a valid proxy"),
    ],
)
def test_a_faulty_proxy_or_certificate_is_told(
    name: str, value: str, message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv(name, value)
    for ask in (
        lambda: lacks_access("some/model", None, known_gated=False),
        lambda: commit_of("some/model", None),
        lambda: fetch("some/model"),
        lambda: has_chat_template("some/model"),
        lambda: snapshot(parse_spec("hf:some/data"), ["*"], ""),
    ):
        with pytest.raises(UserError, match=message) as caught:
            ask()
        assert "word" not in str(caught.value)
