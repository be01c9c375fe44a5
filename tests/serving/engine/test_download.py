import threading

import pytest

from serving.engine import download
from serving.engine.download import Download, report_download


@pytest.fixture
def blobs(monkeypatch, tmp_path):
    monkeypatch.setattr(download, "INTERVAL_S", 0.02)
    folder = tmp_path / "models--owner--name" / "blobs"
    folder.mkdir(parents=True)
    return folder


def test_what_arrives_is_told_unfinished_files_included(tmp_path, blobs):
    told = []
    arrived = threading.Event()

    def tell(text):
        told.append(text)
        arrived.set()

    (blobs / "a").write_bytes(b"x" * 1000)
    with report_download(Download("owner/name", 2 * 10**9, tmp_path), tell):
        with (blobs / "b.incomplete").open("wb") as file:
            file.truncate(500_000_000)
        assert arrived.wait(20)
    assert told == ["downloaded 0.5 of 2.0 GB"]


@pytest.mark.usefixtures("blobs")
def test_nothing_is_told_of_a_download_that_does_not_move(tmp_path):
    told = []
    with report_download(Download("owner/name", 10**9, tmp_path), told.append):
        threading.Event().wait(0.2)
    with report_download(None, told.append):
        pass
    assert told == []
    assert Download("owner/other", 1, tmp_path).present_bytes() == 0
