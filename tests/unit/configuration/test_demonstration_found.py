"""When the demonstration model answers: on this machine, with llama.cpp, if nothing else is configured or found."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

import wants_demonstration
from llm_server.catalog_loading import LoadedCatalog, configured_catalog, load_catalog
from llm_server.engines.discovery import LoopbackServer
from llm_server.engines.local.model_files import in_package, path_of
from llm_server.orchestration.domain.engines.demonstration import BETTER_MODEL
from llm_server.orchestration.domain.errors import ConfigurationError
from llm_server.settings import Settings
from support.fake_engine import fake_engine

ON_AWS = {"table": "tasks", "queue_url": "https://sqs.example/queue"}


@pytest.fixture(autouse=True)
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Install a package of the same size and name as the real one; its file has no content, and it cannot be imported.

    Return its file.
    """
    packaged = configured_catalog(Settings()).models["smollm2-135m"]
    assert packaged.packaged is not None
    path = tmp_path / "site-packages" / packaged.packaged
    path.parent.mkdir(parents=True)
    (path.parent / "__init__.py").write_text("raise ImportError('this package must not be imported')")
    with path.open("wb") as file:
        file.truncate(packaged.size_bytes)
    monkeypatch.syspath_prepend(str(tmp_path / "site-packages"))
    importlib.invalidate_caches()
    return path


def loaded(folder: Path, *, may_demonstrate: bool = True, overlay: str = "", **settings: object) -> LoadedCatalog:
    if overlay:
        settings["config"] = folder / "engines.toml"
        (folder / "engines.toml").write_text(overlay)
    environ = {"XDG_CACHE_HOME": str(folder), **settings.pop("environ", {})}  # type: ignore[dict-item]
    return load_catalog(Settings(environ=environ, **settings), may_demonstrate=may_demonstrate)  # type: ignore[arg-type]


def test_it_answers_where_nothing_is_found_and_the_note_says_what_it_is(tmp_path: Path) -> None:
    catalog, note = loaded(tmp_path)

    spec = catalog.engines["demonstration"]
    assert (spec.kind, spec.source, spec.model, spec.max_concurrency) == ("demonstration", "local", "smollm2-135m", 1)
    assert note.startswith("demonstration: No LLM was found (")
    assert "135 million parameters, which is often wrong" in note
    assert f"make run MODEL={BETTER_MODEL}" in note
    assert BETTER_MODEL in catalog.models


@pytest.mark.parametrize(
    ("case", "name"),
    [
        ({"model": "none"}, "embedded"),
        ({"may_demonstrate": False}, "embedded"),
        (ON_AWS | {"may_demonstrate": False}, "embedded"),
        ({"environ": {"OPENAI_API_KEY": "k"}}, "openai"),
        ({"environ": {"ANTHROPIC_API_KEY": "k"}}, "anthropic"),
        (
            {"overlay": '[engines.mine]\nkind = "openai"\nsource = "local"\nmodel = "m"\nbase_url = "http://x"'},
            "mine",
        ),
    ],
)
def test_it_does_not_answer_where_another_engine_does_or_it_is_not_wanted(
    tmp_path: Path, case: dict[str, object], name: str
) -> None:
    catalog, note = loaded(tmp_path, **case)  # type: ignore[arg-type]

    assert "demonstration" not in catalog.engines
    assert name in catalog.engines
    assert note.startswith(name)
    assert "LLM_SERVER_MODEL is not used" not in note


def test_a_server_on_loopback_comes_before_it(tmp_path: Path) -> None:
    with fake_engine() as engine:
        ports = [LoopbackServer("ollama", "Ollama", int(engine.url.rpartition(":")[2]))]
        catalog = load_catalog(Settings(), loopback=ports, may_demonstrate=True).catalog

    assert "ollama" in catalog.engines
    assert "demonstration" not in catalog.engines


def test_a_file_of_another_size_is_not_used(tmp_path: Path, package: Path) -> None:
    """Another version of the package would bring an unknown file."""
    with package.open("ab") as file:
        file.write(b"more")

    assert "demonstration" not in loaded(tmp_path).catalog.engines


def test_the_model_answers_as_a_demonstration_when_it_is_named_or_pulled(tmp_path: Path, package: Path) -> None:
    """With our role texts it would loop, so it is not an engine of the kind llamacpp."""
    magic = package.read_bytes()[4:]
    package.write_bytes(b"GGUF" + magic)
    named = loaded(tmp_path, model="smollm2-135m")
    package.unlink()
    absent = loaded(tmp_path)
    model = absent.catalog.models["smollm2-135m"]
    pulled = path_of("smollm2-135m", model, tmp_path / "llm-server" / "models")
    pulled.parent.mkdir(parents=True)
    pulled.write_bytes(b"GGUF")

    assert named.catalog.engines["demonstration"].kind == "demonstration"
    assert "LLM_SERVER_MODEL is not used" not in named.engines_note
    assert "demonstration" not in absent.catalog.engines
    assert "demonstration" in loaded(tmp_path).catalog.engines


CONFIGURED = '[engines.small]\nkind = "demonstration"\nsource = "local"\nmodel = "smollm2-135m"\n'


@pytest.mark.parametrize(("model", "overlay"), [(None, ""), ("smollm2-135m", ""), (None, CONFIGURED)])
def test_it_is_not_enough_where_an_engine_is_required(
    tmp_path: Path, package: Path, model: str | None, overlay: str
) -> None:
    """Found, named or configured: a server for production does not start with it."""
    package.write_bytes(b"GGUF" + package.read_bytes()[4:])
    free = loaded(tmp_path, model=model, overlay=overlay).catalog

    assert any(spec.kind == "demonstration" for spec in free.engines.values())
    with pytest.raises(ConfigurationError, match="LLM_SERVER_REQUIRE_ENGINE is true, but no engine was found"):
        loaded(tmp_path, model=model, overlay=overlay, require_engine=True)


def test_a_package_is_looked_at_and_not_imported(package: Path) -> None:
    model = configured_catalog(Settings()).models["smollm2-135m"]

    assert in_package(model) == package


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        (Settings(), True),
        (Settings(environ={"OPENAI_API_KEY": "k"}), False),
        (Settings(model="none"), False),
        (Settings(model="mine.gguf"), False),
    ],
)
def test_make_run_downloads_it_only_where_nothing_else_would_answer(settings: Settings, wanted: bool) -> None:
    assert wants_demonstration.wants_demonstration(settings, 8000, loopback=()) is wanted


def test_make_run_downloads_nothing_with_a_server_on_loopback() -> None:
    with fake_engine() as engine:
        ports = [LoopbackServer("ollama", "Ollama", int(engine.url.rpartition(":")[2]))]

        assert not wants_demonstration.wants_demonstration(Settings(), 8000, loopback=ports)
