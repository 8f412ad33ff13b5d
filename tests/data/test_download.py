import hashlib
import io
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from distillers.data.datasets import download
from distillers.errors import InputError

CONTENT = bytes(range(256)) * 1000
MD5 = hashlib.md5(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves CONTENT, with or without ranges, at most `limit` bytes a connection."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.ranges, self.limit, self.status = True, len(CONTENT), 200
        self.asked: list[str | None] = []

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/file"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self):
        given = self.headers.get("Range")
        self.server.asked.append(given)
        start = int(given[len("bytes=") : -1]) if given and self.server.ranges else 0
        if self.server.status != 200 or start >= len(CONTENT):
            self.send_error(self.server.status if start < len(CONTENT) else 416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        self.wfile.write(CONTENT[start : start + self.server.limit])

    def log_message(self, format, *args):  # noqa: A002 (the name that http.server has)
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(download, "TIMEOUT", 5.0)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join(5)


def test_a_file_comes_whole_and_once(server, tmp_path):
    target = tmp_path / "new" / "file"
    download.fetch(server.url, target, MD5)
    download.fetch(server.url, target, MD5)
    assert target.read_bytes() == CONTENT
    assert server.asked == [None]
    assert [p.name for p in target.parent.iterdir()] == ["file"]


def test_it_goes_on_where_it_stopped(server, tmp_path):
    (tmp_path / "file.part").write_bytes(CONTENT[:1000])
    download.fetch(server.url, tmp_path / "file", MD5)
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert server.asked == ["bytes=1000-"]


def test_broken_connections_are_taken_up_again(server, tmp_path):
    server.limit = 100_000
    download.fetch(server.url, tmp_path / "file", MD5)
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert server.asked == [None, "bytes=100000-", "bytes=200000-"]


def test_a_server_without_ranges_starts_over(server, tmp_path):
    server.ranges = False
    (tmp_path / "file.part").write_bytes(b"something else")
    download.fetch(server.url, tmp_path / "file", MD5)
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_a_complete_part_needs_no_more_bytes(server, tmp_path):
    (tmp_path / "file.part").write_bytes(CONTENT)
    download.fetch(server.url, tmp_path / "file", MD5)
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_a_wrong_checksum_leaves_nothing_behind(server, tmp_path):
    with pytest.raises(InputError, match=r"has md5 .* expected 0000.*; it was deleted; try again"):
        download.fetch(server.url, tmp_path / "file", "0" * 32)
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_file_of_the_user_is_kept(server, tmp_path):
    (tmp_path / "file").write_bytes(b"mine")
    with pytest.raises(InputError, match="delete it to download"):
        download.fetch(server.url, tmp_path / "file", MD5)
    assert (tmp_path / "file").read_bytes() == b"mine"
    assert server.asked == []


def test_what_came_is_kept_when_the_server_gives_up(server, tmp_path):
    (tmp_path / "file.part").write_bytes(CONTENT[:1000])
    server.status = 503
    with pytest.raises(InputError, match=r"HTTP Error 503.* 1,000 bytes so far are kept.*put it"):
        download.fetch(server.url, tmp_path / "file", MD5)
    assert (tmp_path / "file.part").read_bytes() == CONTENT[:1000]
    assert len(server.asked) == 1


def test_a_server_that_trickles_is_left_in_the_end(server, tmp_path, monkeypatch):
    server.limit = 1
    monkeypatch.setattr(download, "TRIES", 3)
    with pytest.raises(InputError, match="could not download"):
        download.fetch(server.url, tmp_path / "file", MD5)
    assert len(server.asked) == 3


def test_no_server_at_all(tmp_path):
    with pytest.raises(InputError, match=r"could not download .* 'digits' needs no download"):
        download.fetch("http://127.0.0.1:9/file", tmp_path / "file", MD5)


def test_a_folder_that_cannot_be_written_to(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(InputError, match=r"cannot write to .* choose another data_dir"),
        download.download_lock(tmp_path / "file" / "folder"),
    ):
        pass


def test_only_one_process_is_in_a_folder_at_a_time(tmp_path):
    entered = threading.Event()

    def wait_for_it():
        with download.download_lock(tmp_path):
            entered.set()

    with download.download_lock(tmp_path):
        thread = threading.Thread(target=wait_for_it)
        thread.start()
        assert not entered.wait(0.1)
    assert entered.wait(5)
    thread.join(5)


def test_not_an_archive(tmp_path):
    (tmp_path / "x.tar.gz").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"cannot unpack .*x.tar.gz .*delete it"):
        download.unpack(tmp_path / "x.tar.gz", tmp_path / "folder", ["a"])
    assert not (tmp_path / "folder").exists()


def test_a_full_disk_is_no_reason_to_delete_an_archive(tmp_path, monkeypatch):
    with tarfile.open(tmp_path / "x.tar.gz", "w:gz") as tar:
        info = tarfile.TarInfo("x/a")
        info.size = 3
        tar.addfile(info, io.BytesIO(b"abc"))

    def fill(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("distillers.data.datasets.download.copyfileobj", fill)
    with pytest.raises(InputError, match=r"no room to unpack .*x.tar.gz .*; make room"):
        download.unpack(tmp_path / "x.tar.gz", tmp_path / "x", ["a"])
    assert [path.name for path in tmp_path.iterdir()] == ["x.tar.gz"]


def test_a_folder_that_nothing_came_into_is_taken_away(tmp_path):
    folder = tmp_path / "data"
    with pytest.raises(InputError), download.download_lock(folder):
        raise InputError("no network")
    assert not folder.exists()

    def fail_halfway():
        with download.download_lock(folder):
            (folder / "x.part").write_bytes(b"half")
            raise InputError("no network")

    with pytest.raises(InputError, match="no network"):
        fail_halfway()
    assert (folder / "x.part").exists()
