"""The file that a setting or an engine names, and the errors if it is missing."""

from pathlib import Path

import pytest

from llm_server.engines.local.model_files import locate, path_of, require
from llm_server.orchestration.domain.engines.catalog import CONTEXT_OF_FILE, LocalModel
from llm_server.orchestration.domain.errors import ConfigurationError

TINY = LocalModel(url="https://models.example/t", sha256="ab" * 32, size_bytes=9, licence="MIT", context=512)
MODELS = {"tiny": TINY, "other": TINY}


def refusal(model: str, folder: Path) -> str:
    with pytest.raises(ConfigurationError) as caught:
        require(locate(model, MODELS, folder), named_by="LLM_SERVER_MODEL")
    return str(caught.value)


def test_a_name_of_the_catalogue_is_the_file_that_was_pulled(tmp_path: Path) -> None:
    path_of("tiny", TINY, tmp_path).write_bytes(b"GGUF...")
    file = locate("tiny", MODELS, tmp_path)
    require(file, named_by="x")

    assert (file.path, file.context) == (tmp_path / "tiny-abababababab.gguf", 512)


def test_anything_else_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my.gguf").write_bytes(b"GGUF...")
    monkeypatch.setenv("HOME", str(tmp_path))

    for model in (str(tmp_path / "my.gguf"), "~/my.gguf"):
        file = locate(model, MODELS, tmp_path / "models")
        require(file, named_by="x")
        assert (file.path, file.context) == (tmp_path / "my.gguf", CONTEXT_OF_FILE)


def test_a_model_that_was_not_pulled_says_how(tmp_path: Path) -> None:
    """The server never downloads a model by itself."""
    assert refusal("tiny", tmp_path) == (
        "LLM_SERVER_MODEL is 'tiny', which was not pulled yet; run `llm-server models pull tiny`."
    )


def test_a_path_without_a_file_says_what_is_allowed(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.gguf", "tinny"):
        assert refusal(str(path), tmp_path) == (
            f"LLM_SERVER_MODEL is {str(path)!r}; allowed is a GGUF file that can be read, or one of tiny, other."
        )


@pytest.mark.parametrize("content", [b"", b"GGU", b"PK\x03\x04 a zip", b"<html>"])
def test_a_file_of_another_kind_is_told_before_llama_cpp_reads_it(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.gguf").write_bytes(content)

    assert refusal(str(tmp_path / "x.gguf"), tmp_path).endswith("which is not a GGUF file.")
