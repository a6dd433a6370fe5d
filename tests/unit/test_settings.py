"""Environment variables: each has a default and bounds, and an error names the variable and what is allowed."""

from __future__ import annotations

from pathlib import Path

import pytest

from llm_server.orchestration.domain.errors import ConfigurationError
from llm_server.settings import VARIABLES, Settings

QUEUE = "https://sqs.eu-central-1.amazonaws.com/123456789012/llm-server"
AWS = {"LLM_SERVER_TABLE": "llm-server", "LLM_SERVER_QUEUE_URL": QUEUE}


def refusal(**environ: str) -> str:
    with pytest.raises(ConfigurationError) as caught:
        Settings.read(environ)
    return str(caught.value)


def test_without_variables_the_server_is_embedded() -> None:
    """`make run` starts with these settings."""
    settings = Settings.read({})

    assert settings == Settings()
    assert (settings.on_aws, settings.table, settings.queue_url, settings.config) == (False, None, None, None)
    assert settings.model is None
    assert settings.db == Path(".llm-server/tasks.db")
    assert (settings.workers, settings.lease_s, settings.sweep_s, settings.max_attempts) == (None, 210, 120, 8)
    assert (settings.prompt_max_chars, settings.log_level) == (200_000, "INFO")


def test_an_empty_variable_counts_as_not_set() -> None:
    """Templates pass empty parameters on, which must not stop a function."""
    empty = dict.fromkeys(VARIABLES, "")

    assert Settings.read(empty) == Settings(environ=empty)


def test_every_variable_is_read(tmp_path: Path) -> None:
    """Each variable sets its own field."""
    config = tmp_path / "engines.toml"
    config.touch()
    given = AWS | {
        "LLM_SERVER_DB": str(tmp_path / "new" / "tasks.db"),
        "LLM_SERVER_CONFIG": str(config),
        "LLM_SERVER_MODEL": "qwen2.5-0.5b",
        "LLM_SERVER_REQUIRE_ENGINE": "true",
        "LLM_SERVER_WORKERS": "3",
        "LLM_SERVER_CORS_ORIGINS": "https://a.example, http://localhost:3000",
        "LLM_SERVER_LEASE_S": "60",
        "LLM_SERVER_SWEEP_S": "30",
        "LLM_SERVER_MAX_ATTEMPTS": "2",
        "LLM_SERVER_KEEP_DAYS": "7",
        "LLM_SERVER_PROMPT_MAX_CHARS": "1000",
        "LLM_SERVER_REMOTE_IMAGES": "true",
        "LLM_SERVER_LOG_LEVEL": "debug",
    }

    assert set(given) == set(VARIABLES)
    assert Settings.read(given) == Settings(
        table="llm-server",
        queue_url=QUEUE,
        db=tmp_path / "new" / "tasks.db",
        config=config,
        model="qwen2.5-0.5b",
        require_engine=True,
        workers=3,
        cors_origins=("https://a.example", "http://localhost:3000"),
        lease_s=60,
        sweep_s=30,
        max_attempts=2,
        keep_days=7,
        prompt_max_chars=1000,
        remote_images=True,
        log_level="DEBUG",
        environ=given,
    )


@pytest.mark.parametrize("origin", ["app.example.com", "https://app.example.com/", "https://*.example.com", "null"])
def test_an_origin_that_no_browser_sends_is_refused(origin: str) -> None:
    """It would allow no page, and the operator would look for the reason elsewhere."""
    said = refusal(LLM_SERVER_CORS_ORIGINS=f"https://a.example,{origin}")

    assert said.startswith(f"LLM_SERVER_CORS_ORIGINS is {origin!r}; allowed is * or origins such as")


@pytest.mark.parametrize(("text", "required"), [("true", True), ("True", True), ("false", False), ("", False)])
def test_a_switch_is_true_or_false(text: str, required: bool) -> None:
    assert Settings.read({"LLM_SERVER_REQUIRE_ENGINE": text}).require_engine is required


def test_another_value_of_a_switch_is_refused() -> None:
    """Read as false, a "yes" would let production start without an engine."""
    assert refusal(LLM_SERVER_REQUIRE_ENGINE="yes") == "LLM_SERVER_REQUIRE_ENGINE is 'yes'; allowed is true or false."


def test_the_real_environment_is_read_unless_another_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """`Settings.read` is the only place that reads it."""
    monkeypatch.setenv("LLM_SERVER_WORKERS", "5")

    assert Settings.read().workers == 5


def test_settings_do_not_show_secrets_of_the_environment() -> None:
    """Settings may be printed in errors and logs."""
    assert "sk-1" not in repr(Settings.read({"OPENAI_API_KEY": "sk-1"}))


@pytest.mark.parametrize("given", AWS)
def test_table_and_queue_must_be_set_together(given: str) -> None:
    """With only one of them every wake-up would be lost; the error names the missing one."""
    (missing,) = AWS.keys() - {given}

    assert refusal(**{given: AWS[given]}).startswith(f"{missing} is not set: set both the table and the queue")


@pytest.mark.parametrize(
    ("name", "least", "most"),
    [
        ("LLM_SERVER_WORKERS", 1, 1024),
        ("LLM_SERVER_LEASE_S", 5, 43_200),
        ("LLM_SERVER_SWEEP_S", 1, 3_600),
        ("LLM_SERVER_MAX_ATTEMPTS", 1, 100),
        ("LLM_SERVER_KEEP_DAYS", 0, 3_650),
        ("LLM_SERVER_PROMPT_MAX_CHARS", 1, 1_000_000),
    ],
)
def test_a_number_must_be_within_its_bounds(name: str, least: int, most: int) -> None:
    """Both bounds are allowed; other numbers and other spellings are refused."""
    field = name.removeprefix("LLM_SERVER_").lower()
    for value in (least, most):
        assert getattr(Settings.read({name: str(value)}), field) == value
    for text in (str(least - 1), str(most + 1), "-1", "1.5", "1e3", "eight", " 8", "8 ", "+8", "٨", "²", "9" * 5_000):
        detail = refusal(**{name: text})
        assert detail.startswith(f"{name} is ")
        assert detail.endswith(f"allowed is a whole number from {least} to {most}.")
        assert len(detail) < 400


@pytest.mark.parametrize("level", ["DEBUG", "INFO", "WARNING", "ERROR", "info", "Warning"])
def test_a_log_level_is_accepted_in_any_case(level: str) -> None:
    """One of the four levels."""
    assert Settings.read({"LLM_SERVER_LOG_LEVEL": level}).log_level == level.upper()


@pytest.mark.parametrize("level", ["TRACE", "warn", "20", " INFO"])
def test_another_log_level_is_refused(level: str) -> None:
    """The error lists the four allowed levels."""
    assert refusal(LLM_SERVER_LOG_LEVEL=level) == (
        f"LLM_SERVER_LOG_LEVEL is {level!r}; allowed is one of DEBUG, INFO, WARNING, ERROR."
    )


@pytest.mark.parametrize(
    "table", ["llm-server", "a.b_c-D9", "arn:aws:dynamodb:eu-central-1:123456789012:table/llm-server"]
)
@pytest.mark.parametrize("queue_url", [QUEUE, "http://127.0.0.1:4566/000000000000/tasks", "https://sqs/1/q.fifo"])
def test_table_and_queue_select_aws(table: str, queue_url: str) -> None:
    """With names, ARNs, and addresses of an emulator."""
    settings = Settings.read({"LLM_SERVER_TABLE": table, "LLM_SERVER_QUEUE_URL": queue_url})

    assert (settings.on_aws, settings.table, settings.queue_url) == (True, table, queue_url)


@pytest.mark.parametrize("table", ["ab", "my table", "táble", "t\nt", "${Table}"])
def test_an_invalid_table_name_is_refused(table: str) -> None:
    """Otherwise the first call to AWS would fail."""
    detail = refusal(**AWS | {"LLM_SERVER_TABLE": table})

    assert detail == f"LLM_SERVER_TABLE is {table!r}; allowed is the name or ARN of a DynamoDB table."


@pytest.mark.parametrize(
    "url", ["llm-server", "arn:aws:sqs:eu:1:q", "https://", "https:///q", "https://host", "ftp://h/q"]
)
def test_an_invalid_queue_url_is_refused(url: str) -> None:
    """An ARN is the most common mistake."""
    detail = refusal(**AWS | {"LLM_SERVER_QUEUE_URL": url})

    assert detail == f"LLM_SERVER_QUEUE_URL is {url!r}; allowed is the https:// address of an SQS queue."


def test_a_configuration_must_be_an_existing_file(tmp_path: Path) -> None:
    """A misspelt path must not mean "no configuration", and a folder is refused, too."""
    for path in (tmp_path / "none.toml", tmp_path):
        detail = refusal(LLM_SERVER_CONFIG=str(path))
        assert detail == f"LLM_SERVER_CONFIG is {str(path)!r}; allowed is a TOML file that exists."


@pytest.mark.parametrize("form", ["{}", "{}/", "{}/new/"])
def test_a_database_must_be_a_file(tmp_path: Path, form: str) -> None:
    """A missing file and its folder are created later; a folder in its place is refused."""
    path = form.format(tmp_path)

    assert refusal(LLM_SERVER_DB=path).startswith(f"LLM_SERVER_DB is {path!r}; allowed is a file")
    assert Settings.read({"LLM_SERVER_DB": f"{tmp_path}/new/tasks.db"}).db == tmp_path / "new" / "tasks.db"


def test_a_misspelt_variable_stops_the_start() -> None:
    """Otherwise it would be ignored, and the default used instead."""
    detail = refusal(LLM_SERVER_WORKER="3")

    assert detail == f"LLM_SERVER_WORKER is not a setting; the settings are {', '.join(VARIABLES)}."


def test_variables_of_the_command_line_and_of_other_programs_are_ignored() -> None:
    """LLM_SERVER_URL belongs to the client."""
    assert (
        Settings.read({"LLM_SERVER_URL": "http://localhost:8000", "LLM_SERVERS": "x", "PATH": "/bin"}).workers is None
    )


def test_models_are_kept_in_the_users_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In XDG_CACHE_HOME; a relative path is ignored (XDG Base Directory)."""
    monkeypatch.setenv("HOME", str(tmp_path))

    assert Settings.read({"XDG_CACHE_HOME": "/big/cache"}).models_dir == Path("/big/cache/llm-server/models")
    for environ in ({}, {"XDG_CACHE_HOME": ""}, {"XDG_CACHE_HOME": "cache"}):
        folder = Settings.read(environ).models_dir
        assert folder.relative_to(tmp_path).parts[-2:] == ("llm-server", "models")


def test_commands_for_keys_need_only_the_table() -> None:
    """A server needs the queue as well."""
    given = {"LLM_SERVER_TABLE": "tasks", "LLM_SERVER_API_KEY": "llms_..."}

    assert Settings.read(given, table_alone=True).table == "tasks"
    with pytest.raises(ConfigurationError, match="LLM_SERVER_QUEUE_URL is not set"):
        Settings.read(given)
    with pytest.raises(ConfigurationError, match="LLM_SERVER_TABLE is not set"):
        Settings.read({"LLM_SERVER_QUEUE_URL": "https://sqs.eu-central-1.amazonaws.com/1/q"}, table_alone=True)
