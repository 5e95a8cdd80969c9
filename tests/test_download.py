"""Downloads that go on where they broke off, from a server that has ranges; tests/vit/test_data.py has bad servers."""

import hashlib
import os

import pytest

from airl import download as module
from airl.download import download
from tests import serving

CONTENT = bytes(i * i % 251 for i in range(100_000))
MD5 = hashlib.md5(CONTENT).hexdigest()


class Handler(serving.Handler):
    """Serves ranges; at /breaks it stops after `server.limit` bytes; at /whole it knows no ranges."""

    def do_GET(self):
        asked = self.headers.get("Range")
        self.server.asked.append((self.path, asked))
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and self.path != "/whole" else 0
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}")
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        end = start + self.server.limit if self.path == "/breaks" else len(CONTENT)
        self.wfile.write(CONTENT[start:end])
        self.close_connection = True


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serving.serving(Handler) as server:
        server.asked, server.limit = [], 60_000
        yield server


def test_what_broke_off_goes_on_when_called_again(server, tmp_path):
    path = tmp_path / "file"
    with pytest.raises(ConnectionError, match="broke off after 60000 .*\n60,000 bytes are kept"):
        download([server.url + "/breaks"], path, len(CONTENT), MD5)
    assert not path.exists() and (tmp_path / ".file.part").read_bytes() == CONTENT[:60_000]
    assert download([server.url + "/breaks"], path, len(CONTENT), MD5) == server.url + "/breaks"
    assert server.asked == [("/breaks", None), ("/breaks", "bytes=60000-")]
    assert path.read_bytes() == CONTENT and os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("second, asked", [("/good", "bytes=60000-"), ("/whole", "bytes=60000-")])
def test_the_next_source_goes_on_with_or_without_ranges(server, tmp_path, second, asked):
    path = tmp_path / "file"
    assert download([server.url + "/breaks", server.url + second], path, len(CONTENT), MD5) == server.url + second
    assert server.asked == [("/breaks", None), (second, asked)] and path.read_bytes() == CONTENT


@pytest.mark.parametrize("left", [b"x" * 500, b"x" * len(CONTENT), CONTENT + b"x", CONTENT])
def test_what_is_left_is_verified(server, tmp_path, left):
    (tmp_path / ".file.part").write_bytes(left)
    download([server.url + "/good"], tmp_path / "file", len(CONTENT), MD5)
    assert (tmp_path / "file").read_bytes() == CONTENT and os.listdir(tmp_path) == ["file"]
    assert len(server.asked) == {500: 2, len(CONTENT): 0 if left == CONTENT else 1}.get(len(left), 1)


def test_two_at_once_do_not_touch_each_others_part(server, tmp_path):
    path = tmp_path / "file"
    with module._part(path) as held:
        held.write(CONTENT[:10])
        held.flush()
        download([server.url + "/good"], path, len(CONTENT), MD5)
        assert path.read_bytes() == CONTENT and (tmp_path / ".file.part").read_bytes() == CONTENT[:10]
    assert sorted(os.listdir(tmp_path)) == [".file.part", "file"]


def test_a_part_renamed_while_it_was_waited_for_is_not_taken(tmp_path, monkeypatch):
    """Between opening and locking, the other process may have finished: what is held then is the whole file."""
    path = tmp_path / "file"
    open_ = open

    def finished(name, mode):
        file = open_(name, mode)
        os.replace(name, path)
        return file

    path.write_bytes(CONTENT)
    monkeypatch.setattr(module, "open", finished, raising=False)
    (tmp_path / ".file.part").write_bytes(CONTENT)
    with module._part(path) as file:
        assert file.name != str(path) and not os.path.samefile(file.name, path)
    assert path.read_bytes() == CONTENT
