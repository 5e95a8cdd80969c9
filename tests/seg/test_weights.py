"""Every download here is served by 127.0.0.1."""

import hashlib

import pytest

from airl.seg import weights
from tests import serving

BODY = bytes(range(256)) * 400


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A server whose answers to each path, body and claimed length, the test sets; and a clean place to work in."""
    answers: dict[str, bytes] = {}
    asked: list[str] = []

    class Handler(serving.Handler):
        def do_GET(self):
            asked.append(self.path)
            if self.path not in answers:
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(BODY)))
            self.end_headers()
            self.wfile.write(answers[self.path])

    digest = hashlib.md5(BODY).hexdigest()
    checkpoint = weights.Checkpoint(f"sam_vit_x_{digest[:6]}.pth", len(BODY), digest)
    monkeypatch.setitem(weights.SAM, "vit_x", checkpoint)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    with serving.serving(Handler) as server:
        monkeypatch.setattr(weights, "SOURCES", (f"{server.url}/first/", f"{server.url}/second/"))
        yield answers, asked, checkpoint, tmp_path / "cache"


def test_names_agree_with_digests():
    for name, checkpoint in weights.SAM.items():
        assert checkpoint.file == f"sam_{name}_{checkpoint.md5[:6]}.pth" and len(checkpoint.md5) == 32


def test_downloaded_once_then_from_the_cache(served):
    answers, asked, checkpoint, cache = served
    answers[f"/first/{checkpoint.file}"] = BODY
    path = weights.sam_file("vit_x", cache)
    assert path == cache / checkpoint.file and path.read_bytes() == BODY
    assert weights.sam_file("vit_x", cache) == path and len(asked) == 1
    assert list(cache.iterdir()) == [path]  # nothing half-made is left


def test_working_folder_comes_first(served, tmp_path):
    _, asked, checkpoint, cache = served
    cache.mkdir()
    for folder in (cache, tmp_path / "work"):
        (folder / checkpoint.file).write_bytes(BODY)
    assert weights.sam_file("vit_x", cache).parent == tmp_path / "work" and not asked


def test_half_an_upload_is_never_used_nor_touched(served, tmp_path, capsys):
    answers, _, checkpoint, cache = served
    answers[f"/first/{checkpoint.file}"] = BODY
    half = tmp_path / "work" / checkpoint.file
    half.write_bytes(BODY[:1000])
    assert weights.sam_file("vit_x", cache).parent == cache
    assert half.read_bytes() == BODY[:1000] and f"left {half}: it has 1,000 of" in capsys.readouterr().out


@pytest.mark.parametrize("bad", [BODY[:-1], b"x" + BODY[1:], None])
def test_truncated_corrupt_or_missing_at_one_source(served, bad):
    answers, asked, checkpoint, cache = served
    if bad is not None:
        answers[f"/first/{checkpoint.file}"] = bad
    answers[f"/second/{checkpoint.file}"] = BODY
    assert weights.sam_file("vit_x", cache).read_bytes() == BODY
    assert [path.split("/")[1] for path in asked] == ["first", "second"]


def test_no_source_serves_it(served):
    answers, _, checkpoint, cache = served
    answers[f"/first/{checkpoint.file}"] = BODY[:-7]
    with pytest.raises(ConnectionError) as caught:
        weights.sam_file("vit_x", cache)
    message = str(caught.value)
    assert checkpoint.file in message and checkpoint.urls[0] in message and str(cache) in message
    assert "put it in" in message and f"{len(BODY) - 7:,} bytes are kept" in message
    assert [path.name for path in cache.iterdir()] == [f".{checkpoint.file}.part"]


def test_no_network(served, monkeypatch):
    _, _, checkpoint, cache = served
    monkeypatch.setattr(weights, "SOURCES", ("http://127.0.0.1:9/",))  # nobody listens on the discard port
    with pytest.raises(ConnectionError, match=checkpoint.file):
        weights.sam_file("vit_x", cache)


def test_unknown_name():
    with pytest.raises(ValueError, match="'vit_z'.*vit_h, vit_l, vit_b"):
        weights.sam_file("vit_z")


def test_from_hub_says_what_to_do(tmp_path):
    from transformers import CLIPSegForImageSegmentation

    assert weights.from_hub(str.upper, "a") == "A"
    with pytest.raises(ConnectionError, match="huggingface.co/.*nowhere.*--local-dir"):
        weights.from_hub(CLIPSegForImageSegmentation.from_pretrained, str(tmp_path / "nowhere"))
