"""The page as a visitor meets it, in a real headless Chromium, with the embedded models."""

import io
import json
import os
import shutil
import urllib.error
import urllib.request
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from airl import images, seg, vit
from airl.scenes import shapes

gradio = pytest.importorskip("gradio")
sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="there is no Chromium")

SCENE = shapes.scene(6, kind="several")
ABSENT = next(prompt for prompt in shapes.PROMPTS if prompt not in SCENE.prompts())
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]


@pytest.fixture(scope="module")
def page_url(tmp_path_factory):
    from airl import app

    folder = tmp_path_factory.mktemp("vit")
    vit.ViT(vit.ViTConfig(dim=16, depth=2, heads=2, classes=tuple("abcdefghij"))).save_pretrained(folder / "model")
    page = app.launch("tiny", classifier=str(folder / "model"))
    yield page.local_url
    page.close()
    files = [path for path in Path(page.work.name).rglob("*") if path.is_file()]
    assert any(path.name == "scene.png" for path in files)  # all that visitors sent lies where it is swept
    app.sweep(Path(page.work.name), 0)
    assert not any(path.is_file() for path in Path(page.work.name).rglob("*"))


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser, page_url):
    """Opens the page; at the end of the test, whatever the browser's console called an error fails it."""
    errors, contexts = [], []

    def visit(**options):
        context = browser.new_context(accept_downloads=True, **options)
        context.set_default_timeout(30_000)
        page = context.new_page()
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(page_url)
        page.get_by_role("button", name="Cut out").wait_for()
        contexts.append(context)
        return page

    yield visit
    for context in contexts:
        context.close()
    assert not errors


@pytest.fixture(scope="module")
def scene_file(tmp_path_factory):
    return images.save(SCENE.image, tmp_path_factory.mktemp("scene") / "scene.png")


def cut_out(page, file, prompts):
    page.locator("input[type=file]").first.set_input_files(file)
    page.get_by_role("img").first.wait_for()
    page.get_by_label("What to cut out").fill(prompts)
    page.get_by_role("button", name="Cut out").click()
    page.get_by_text("score").first.wait_for()


def downloaded(page) -> zipfile.ZipFile:
    page.get_by_role("button", name="Download what is switched on").click()
    link = page.locator("a[download$='.zip']").first
    link.wait_for()
    with page.expect_download() as download:
        link.click()
    return zipfile.ZipFile(io.BytesIO(download.value.path().read_bytes()))


def masks_in(file: zipfile.ZipFile) -> list[np.ndarray]:
    names = sorted(name for name in file.namelist() if name.endswith("mask.png"))
    return [np.array(Image.open(io.BytesIO(file.read(name)))) > 0 for name in names]


def test_prompts_to_a_zip_of_what_is_switched_on(visit, scene_file):
    page = visit()
    cut_out(page, scene_file, f"{SCENE.prompt}\n{ABSENT}")
    page.get_by_text(f"“{ABSENT}” is not there").wait_for()
    expected = seg.TextSegmenter.tiny("best")(SCENE.image, SCENE.prompt).instances
    assert len(expected) >= 2

    file = downloaded(page)
    found = masks_in(file)
    assert len(found) == len(expected)
    for mask in found:
        assert any((mask == instance.mask).all() for instance in expected)
    coco = json.loads(file.read("coco.json"))
    assert len(coco["annotations"]) == len(expected) and coco["categories"][0]["name"] == SCENE.prompt

    page.get_by_label(f"1 {SCENE.prompt}", exact=True).uncheck()
    page.wait_for_timeout(500)
    assert len(masks_in(downloaded(page))) == len(expected) - 1


def test_a_click_corrects_an_object_and_undo_takes_it_back(visit, scene_file):
    page = visit()
    cut_out(page, scene_file, SCENE.prompt)
    (before, *_), shown = masks_in(downloaded(page)), page.locator("img").nth(1)
    page.get_by_text("Correct an object").click()
    source = shown.get_attribute("src")
    page.get_by_label("takes away from it").check()
    x, y = seg.TextSegmenter.tiny("best")(SCENE.image, SCENE.prompt).instances[0].point
    shown.scroll_into_view_if_needed()
    box, (H, W) = shown.bounding_box(), SCENE.image.shape[:2]
    scale = min(box["width"] / W, box["height"] / H)  # the picture is fitted into the box
    left, top = box["x"] + (box["width"] - scale * W) / 2, box["y"] + (box["height"] - scale * H) / 2
    page.mouse.click(left + (x + 0.5) * scale, top + (y + 0.5) * scale)
    page.wait_for_function("([i, old]) => document.querySelectorAll('img')[i].src != old", arg=[1, source])
    corrected = masks_in(downloaded(page))
    assert not any((mask == before).all() for mask in corrected)

    page.get_by_role("button", name="Undo").click()
    page.wait_for_timeout(1000)
    assert any((mask == before).all() for mask in masks_in(downloaded(page)))


def test_heat_map_and_coarse_mask_can_be_seen(visit, scene_file):
    page = visit()
    cut_out(page, scene_file, SCENE.prompt)
    sources = set()
    for view in ("objects", "heat-map", "coarse mask"):
        page.get_by_label(view, exact=True).check()
        page.wait_for_timeout(800)
        sources.add(page.locator("img").nth(1).get_attribute("src"))
    assert len(sources) == 3


def bomb() -> bytes:
    file = io.BytesIO()
    Image.new("1", (13_000, 13_000)).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize(
    "content, says",
    [
        (b"MZ\x90\x00 not a picture at all", "is not a picture that can be read"),
        (b"", "is not a picture that can be read"),
        (bomb(), "megapixels"),
    ],
    ids=["disguised", "empty", "bomb"],
)
def test_a_file_that_is_no_picture_gets_one_sentence(visit, tmp_path, content, says):
    (tmp_path / "holiday.png").write_bytes(content)
    page = visit()
    page.locator("input[type=file]").first.set_input_files(tmp_path / "holiday.png")
    page.get_by_label("What to cut out").fill("a star")
    page.wait_for_timeout(500)
    page.get_by_role("button", name="Cut out").click()
    toast = page.get_by_test_id("toast-body").first
    toast.wait_for()
    text = toast.inner_text()
    assert says in text and "/tmp" not in text and "Traceback" not in text


def test_a_film(visit):
    page = visit()
    page.get_by_role("tab", name="Film").click()
    page.get_by_role("button", name="A drawn clip").click()
    page.locator(".file-preview").wait_for()
    page.get_by_role("button", name="Follow").click()
    page.get_by_text("of 40 frames").wait_for(timeout=90_000)
    assert page.locator("video").get_attribute("src")


def test_what_is_this(visit, scene_file):
    page = visit()
    page.get_by_role("tab", name="What is this?").click()
    page.get_by_text("It knows a, b, c, d, e, f, g, h, i, j, and nothing else").wait_for()
    page.locator("input[type=file]:visible, [role=tabpanel]:visible input[type=file]").first.set_input_files(scene_file)
    page.wait_for_timeout(500)
    page.get_by_role("button", name="What is this?").click()
    page.get_by_test_id("label-output-value").wait_for()
    assert page.get_by_role("img").last.is_visible()


def test_on_a_phone_nothing_is_wider_than_the_screen(visit, scene_file):
    page = visit(viewport={"width": 390, "height": 844}, is_mobile=True, has_touch=True)
    cut_out(page, scene_file, SCENE.prompt)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_by_keyboard_alone(visit):
    page = visit()

    def tab_to(name: str) -> None:
        for _ in range(60):
            page.keyboard.press("Tab")
            focused = "document.activeElement.innerText || document.activeElement.labels?.[0]?.innerText || ''"
            if name in page.evaluate(focused):
                return
        raise AssertionError(f"{name} cannot be reached with Tab")

    tab_to("A drawn scene")
    page.keyboard.press("Enter")
    page.wait_for_function("document.querySelector('textarea').value != ''")
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Enter")  # Cut out
    page.get_by_text("score").first.wait_for()


@pytest.mark.parametrize(
    "path",
    ["/etc/passwd", "../../../../etc/passwd", "..%2f..%2f..%2fetc%2fpasswd", __file__, "%2fetc%2fpasswd"],
)
def test_no_file_outside_its_own_folder_is_served(page_url, path):
    for route in ("gradio_api/file=", "gradio_api/file/", "file="):
        try:
            with urllib.request.urlopen(f"{page_url}{route}{path}", timeout=10) as answer:
                assert b"root:" not in answer.read() and answer.headers["content-type"].startswith("text/html")
        except urllib.error.HTTPError as error:
            assert error.code in (403, 404, 405)


def test_without_gradio_it_says_what_to_install(monkeypatch):
    import builtins

    from airl import app

    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "gradio":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"pip install 'airl\[app\]'"):
        app.build(None)


def test_what_is_old_is_deleted(tmp_path):
    from airl import app

    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "photo.png").write_bytes(b"")
    os.utime(tmp_path / "old" / "photo.png", (0, 0))
    app.sweep(tmp_path, 3000)
    assert [path.parent.name for path in tmp_path.rglob("*.png")] == ["new"]


def test_a_film_tells_how_far_it_is_and_ends_when_told_to():
    from airl.app import Watched
    from airl.seg.video.frames import open_clip

    told, stopped = [], []
    clip = Watched(open_clip([SCENE.image] * 4), lambda done, **how: told.append((done, how["desc"])), lambda: stopped)
    assert len(list(open_clip(clip).read())) == 4
    assert [done for done, _ in told] == [(1, 4), (2, 4), (3, 4), (4, 4)] and told[-1][1].endswith(", 0 s left")
    stopped.append(True)
    with pytest.raises(ValueError, match="Stopped"):
        list(clip.read())
