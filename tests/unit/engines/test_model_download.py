"""A download gives the complete, correct file, or an error that says why and leaves no wrong file behind."""

import hashlib
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import urllib3

from llm_server.engines.local.model_download import MAX_TRIES, SPARE_BYTES, pull
from llm_server.engines.local.model_files import part_of, path_of
from llm_server.orchestration.domain.engines.catalog import LocalModel
from llm_server.orchestration.domain.errors import DownloadFailed
from support.model_server import Fault, ModelServer, cut_after, model_server, status, without_length, without_ranges

DATA = b"GGUF" + random.Random(1).randbytes(1_500_000)


@pytest.fixture
def server() -> Iterator[ModelServer]:
    with model_server(DATA) as served:
        yield served


def pulled(model: LocalModel, folder: Path, **options: Any) -> bytes:
    """Pull without waiting between the tries; return the content of the file."""
    return pull("tiny", model, folder, **({"sleep": lambda _: None} | options)).read_bytes()


def refused(model: LocalModel, folder: Path, **options: Any) -> str:
    with pytest.raises(DownloadFailed) as caught:
        pulled(model, folder, **options)
    return str(caught.value)


def arrived(model: LocalModel, folder: Path) -> int:
    """Return the number of bytes that are kept for the next pull; -1 if there is no partial file."""
    part = part_of("tiny", model, folder)
    return part.stat().st_size if part.exists() else -1


def test_a_model_is_fetched_once_and_shown_on_its_way(server: ModelServer, tmp_path: Path) -> None:
    """A second pull only checks the file."""
    shown: list[int] = []
    folder = tmp_path / "cache" / "models"

    assert pulled(server.model(), folder, show=shown.append) == DATA
    assert pulled(server.model(), folder) == DATA
    assert server.asked == [""]
    assert shown == sorted(shown)
    assert shown[-1] == len(DATA)
    assert arrived(server.model(), folder) == -1


def test_a_download_that_breaks_off_goes_on_where_it_was(server: ModelServer, tmp_path: Path) -> None:
    """No byte is downloaded twice."""
    server.faults = [cut_after(400_000), cut_after(300_000)]

    assert pulled(server.model(), tmp_path) == DATA
    assert server.asked == ["", "bytes=400000-", "bytes=700000-"]


def test_a_later_pull_goes_on_where_an_earlier_one_ended(server: ModelServer, tmp_path: Path) -> None:
    """This also holds after a restart of the machine."""
    server.faults = [cut_after(500_000), *[status(503)] * MAX_TRIES]

    assert "the downloaded part is kept" in refused(server.model(), tmp_path)
    assert arrived(server.model(), tmp_path) == 500_000
    assert pulled(server.model(), tmp_path) == DATA
    assert server.asked[-1] == "bytes=500000-"


def test_a_server_without_ranges_starts_anew(server: ModelServer, tmp_path: Path) -> None:
    """It answers 200 with the whole file, whatever range is requested."""
    server.faults = [lambda asked: without_ranges(asked, 600_000)]
    server.always = without_ranges

    assert pulled(server.model(), tmp_path) == DATA
    assert server.asked == ["", "bytes=600000-"]


def test_a_server_that_never_gets_further_is_given_up(server: ModelServer, tmp_path: Path) -> None:
    """Each try without a new byte counts, and the waits between tries grow."""
    waits: list[float] = []
    server.always = lambda asked: without_ranges(asked, 10_000)

    assert "broke off" in refused(server.model(), tmp_path, sleep=waits.append)
    assert len(server.asked) == 1 + MAX_TRIES
    assert waits == [1.0, 2.0, 4.0, 8.0]


def test_a_server_that_does_not_say_how_long_is_read_to_its_end(server: ModelServer, tmp_path: Path) -> None:
    server.always = without_length

    assert pulled(server.model(), tmp_path) == DATA


def test_a_wrong_checksum_removes_the_file(server: ModelServer, tmp_path: Path) -> None:
    """The next download starts from byte 0."""
    right = server.model()
    server.data = DATA[:-1] + b"!"

    assert "wrong checksum" in refused(right, tmp_path)
    assert arrived(right, tmp_path) == -1
    assert not path_of("tiny", right, tmp_path).exists()
    server.data = DATA
    assert pulled(right, tmp_path) == DATA


def test_a_part_of_another_file_is_not_completed(server: ModelServer, tmp_path: Path) -> None:
    """The checksum covers the whole file, not only the last part."""
    part_of("tiny", server.model(), tmp_path).write_bytes(b"x" * 1000)

    assert "wrong checksum" in refused(server.model(), tmp_path)
    assert arrived(server.model(), tmp_path) == -1


def test_a_damaged_file_is_fetched_again(server: ModelServer, tmp_path: Path) -> None:
    """`pull` checks a file that exists."""
    path_of("tiny", server.model(), tmp_path).write_bytes(DATA[:-1] + b"!")

    assert pulled(server.model(), tmp_path) == DATA


@pytest.mark.parametrize("size", [len(DATA) - 1, len(DATA) + 1])
@pytest.mark.parametrize("fault", [without_ranges, without_length])
def test_a_file_of_another_size_is_not_kept(server: ModelServer, tmp_path: Path, size: int, fault: Fault) -> None:
    """The error comes before the download if the server tells the size."""
    server.always = fault
    model = server.model(size_bytes=size)
    detail = refused(model, tmp_path)

    if fault is without_ranges or size < len(DATA):
        assert "not the file that the catalogue describes" in detail
        assert arrived(model, tmp_path) == -1
    else:
        assert "broke off" in detail


@pytest.mark.parametrize("total", [len(DATA) + 1, 20])
def test_a_rest_of_another_file_is_not_taken(server: ModelServer, tmp_path: Path, total: int) -> None:
    server.faults = [cut_after(1000), lambda asked: asked.head(206, Content_Range=f"bytes 1000-1999/{total}")]

    assert f"bytes, but has {total};" in refused(server.model(), tmp_path)
    assert arrived(server.model(), tmp_path) == -1


@pytest.mark.parametrize("sent", ["bytes 0-9/100", "bytes 1001-2000/*", "pages 1-2/3", ""])
def test_another_range_than_asked_for_is_not_taken(server: ModelServer, tmp_path: Path, sent: str) -> None:
    server.faults = [cut_after(1000), lambda asked: asked.head(206, Content_Range=sent, Content_Length="0")]

    assert "another part of tiny" in refused(server.model(), tmp_path)
    assert pulled(server.model(), tmp_path) == DATA


def test_a_file_that_became_shorter_is_told(server: ModelServer, tmp_path: Path) -> None:
    model = server.model()
    part_of("tiny", model, tmp_path).write_bytes(DATA[:1000])
    server.data = DATA[:500]

    assert "bytes, but has fewer;" in refused(model, tmp_path)
    assert arrived(model, tmp_path) == -1


@pytest.mark.parametrize("code", [400, 401, 403, 404, 410])
def test_a_refusal_is_final(server: ModelServer, tmp_path: Path, code: int) -> None:
    """Another try would be refused as well."""
    server.always = status(code)

    assert refused(server.model(), tmp_path) == f"tiny cannot be fetched: the server answered HTTP {code}."
    assert len(server.asked) == 1


@pytest.mark.parametrize("code", [408, 429, 500, 503])
def test_a_busy_server_is_asked_again(server: ModelServer, tmp_path: Path, code: int) -> None:
    server.faults = [status(code)] * (MAX_TRIES - 1)

    assert pulled(server.model(), tmp_path) == DATA


def test_a_server_that_does_not_listen_is_reported(tmp_path: Path) -> None:
    model = LocalModel(url="http://127.0.0.1:1/x", sha256="0" * 64, size_bytes=9, licence="MIT", context=9)

    assert "the server cannot be reached" in refused(model, tmp_path)


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_a_redirect_is_followed_with_its_range(server: ModelServer, tmp_path: Path, code: int) -> None:
    """Hosts of models redirect to a file store."""
    with model_server(DATA) as store:
        store.faults = [cut_after(1000)]
        server.always = status(code, Location=f"{store.url}/blob")
        server.faults = [status(code, Location="/elsewhere")]

        assert pulled(server.model(), tmp_path) == DATA
        assert store.asked == ["", "bytes=1000-"]


def test_redirects_have_an_end(server: ModelServer, tmp_path: Path) -> None:
    server.always = status(302, Location="/model.gguf")

    assert "redirects more than 5 times" in refused(server.model(), tmp_path)


@pytest.mark.parametrize(
    "location", ["http://models.example/x", "ftp://127.0.0.1/x", "file:///etc/passwd", "http://127.0.0.1.example/x"]
)
def test_a_redirect_to_an_open_connection_is_not_followed(server: ModelServer, tmp_path: Path, location: str) -> None:
    server.always = status(302, Location=location)

    assert "https:// only" in refused(server.model(), tmp_path)


@pytest.mark.parametrize("url", ["http://models.example/x", "http://10.0.0.1/x", "ftp://localhost/x", "http://[bad/x"])
def test_a_model_is_fetched_over_https_or_loopback_only(server: ModelServer, tmp_path: Path, url: str) -> None:
    """The address is checked before a request is sent."""
    assert "https:// only" in refused(server.model(url=url), tmp_path)


def test_a_https_address_does_not_lead_to_this_machine(server: ModelServer, tmp_path: Path) -> None:
    """Loopback is allowed only if the catalogue's own address names it."""

    class Redirecting(urllib3.PoolManager):
        def request(self, method: str, url: str, *args: Any, **options: Any) -> Any:
            assert url == "https://models.example/x"
            return super().request(method, f"{server.url}/model.gguf", *args, **options)

    server.always = status(302, Location=f"{server.url}/model.gguf")
    detail = refused(server.model(url="https://models.example/x"), tmp_path, pool=Redirecting())

    assert "https:// only" in detail
    assert len(server.asked) == 1


def test_a_full_disk_is_told_before_the_download(server: ModelServer, tmp_path: Path) -> None:
    """Bytes that have arrived already need no more space."""
    server.faults = [cut_after(500_000), *[status(503)] * MAX_TRIES]
    refused(server.model(), tmp_path)
    needed = len(DATA) - 500_000 + SPARE_BYTES
    asked = len(server.asked)

    detail = refused(server.model(), tmp_path, free_bytes=lambda _: needed - 1)
    assert f"{needed:,} free bytes" in detail
    assert len(server.asked) == asked
    assert pulled(server.model(), tmp_path, free_bytes=lambda _: needed) == DATA


def test_a_folder_that_cannot_be_made_is_told(server: ModelServer, tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    assert "cannot be stored" in refused(server.model(), tmp_path / "file" / "models")


def test_two_pulls_do_not_write_one_file(server: ModelServer, tmp_path: Path) -> None:
    """The second one fails at once."""
    under_way, go_on = threading.Event(), threading.Event()

    def slow(_: int) -> None:
        under_way.set()
        go_on.wait(10)

    first = threading.Thread(target=pulled, args=(server.model(), tmp_path), kwargs={"show": slow})
    first.start()
    under_way.wait(10)
    try:
        assert "Another process is downloading" in refused(server.model(), tmp_path)
    finally:
        go_on.set()
        first.join()
    assert pulled(server.model(), tmp_path) == DATA


def test_an_entry_that_changes_names_another_file(server: ModelServer, tmp_path: Path) -> None:
    """The file of the old entry is not used for the new one."""
    pulled(server.model(), tmp_path)
    server.data = DATA + b"new"

    assert pulled(server.model(), tmp_path) == DATA + b"new"
    assert hashlib.sha256(server.data).hexdigest()[:12] in path_of("tiny", server.model(), tmp_path).name
