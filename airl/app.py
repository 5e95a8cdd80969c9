"""A page in the browser for both halves: cut out by text, follow through a film, classify. It only wires what is there.

    python -m airl.app                     # on this machine alone, at the address it prints
    python -m airl.app --share --password SECRET

or, in a notebook, `from airl import app; app.launch()`. It needs Gradio: pip install 'airl[app]'.
"""

import argparse
import functools
import getpass
import io
import json
import os
import shutil
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from matplotlib import colormaps
from PIL import Image

from airl import images, runtime, seg, vit
from airl.files import slug
from airl.scenes import clips, shapes
from airl.seg import dataset, draw, pipeline, weights
from airl.seg.video.frames import Frames, open_clip, write_mp4

MAX_BYTES = 200 * 2**20  # of an upload
MAX_PIXELS = 40_000_000  # of a picture
MAX_SECONDS = 60  # of a film
MAX_FILM_SIDE = 1280  # pixels; larger frames are made smaller
MAX_PROMPTS = 20
KEPT, SWEPT_EVERY = 50 * 60, 5 * 60  # seconds: a visitor's files are deleted when they are this old, so within an hour
MAX_SIDE = 1600  # pixels of a picture as it is shown
UNDONE = 20  # corrections that can be taken back
VIEWS = ("objects", "heat-map", "coarse mask")
MODES = ("adds to the object", "takes away from it")


class Models:
    """What the page works with, and how it tells a visitor what that is."""

    def __init__(self, models: str = "auto", classifier: str | None = None, device: str = "auto"):
        """Load "released" or "tiny" models; "auto" takes the released ones where there is a GPU.

        classifier: a folder that `ViT.save_pretrained` wrote, or a name on the Hub; None is the ViT in the package.
        """
        if models not in ("auto", "released", "tiny"):
            raise ValueError(f"models is {models!r}; expected 'auto', 'released' or 'tiny'")
        self.device = runtime.choose(device)
        released = models == "released" or (models == "auto" and self.device.device.type == "cuda")
        self.sams = [*weights.SAM, *weights.SAM2] if released else ["tiny"]
        tiny = {} if released else {"threshold": pipeline.TINY_THRESHOLD, "floor": pipeline.TINY_FLOOR}
        self.recipes = {name: replace(recipe, **tiny) for name, recipe in seg.RECIPES.items()}
        if released:
            self.about = "the released CLIPSeg and SAM, which know most things that people photograph"
            self.tracker = seg.VideoTracker.from_pretrained(device=device)
        else:
            self.about = (
                f"the small models that come with AIRL. They know drawn shapes ({', '.join(shapes.SCENE_SHAPES)}) in "
                f"{len(shapes.COLOURS)} colours ({', '.join(shapes.COLOURS)}), and nothing of photos"
            )
            self.tracker = seg.VideoTracker.tiny(device=device)
        self.segmenter(self.sams[0])
        self.classifier = vit.ViT.from_pretrained(classifier) if classifier else vit.ViT.tiny()
        self.classifier.to(self.device.device)

    @lru_cache(maxsize=1)  # noqa: B019 (one SAM at a time is held, as long as the page is)
    def segmenter(self, sam: str) -> seg.TextSegmenter:
        """The pipeline with this SAM, one of `sams`."""
        if sam == "tiny":
            return seg.TextSegmenter.tiny(device=str(self.device.device))
        return seg.TextSegmenter.from_pretrained(sam, device=str(self.device.device))


def main(arguments: list[str] | None = None) -> int:
    """Serve the page until Ctrl-C; return 0, or 1 after printing an error to stderr."""
    parser = argparse.ArgumentParser(
        prog="python -m airl.app", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", default="auto", help="released, tiny or auto: released where there is a GPU")
    parser.add_argument(
        "--vit", metavar="MODEL", help="what “What is this?” asks: OUT/model of airl.vit train (default: AIRL's ViT)"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 for the whole network (default: this machine)")
    parser.add_argument("--port", type=int, help="default: the first free one from 7860")
    parser.add_argument("--share", action="store_true", help="also at a public address, for 72 hours at most")
    parser.add_argument("--password", help="ask visitors for it (their user name is “airl”); - to type it in")
    args = parser.parse_args(arguments)
    password = getpass.getpass() if args.password == "-" else args.password
    try:
        page = launch(
            args.models,
            classifier=args.vit,
            device=args.device,
            host=args.host,
            port=args.port,
            share=args.share,
            password=password,
        )
    except (ImportError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    page.block_thread()
    return 0


def launch(
    models: str = "auto",
    *,
    classifier: str | None = None,
    device: str = "auto",
    host: str = "127.0.0.1",
    port: int | None = None,
    share: bool = False,
    password: str | None = None,
):
    """Load the models, serve the page and return it, a `gradio.Blocks`; in a notebook it is shown below the cell.

    models, classifier, device: see `Models`. host: "127.0.0.1" is this machine alone. share: also give a public
    address. password: visitors are asked for it, with the user name "airl". Raises ImportError, which says how to
    install it, without Gradio; OSError for a port in use.
    """
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    page = build(Models(models, classifier, device))
    page.launch(
        server_name=host,
        server_port=port,
        share=share,
        auth=("airl", password) if password else None,
        max_file_size=MAX_BYTES,
        prevent_thread_lock=True,
        ssr_mode=False,
    )
    return page


# ------------------------------------------------------------------------------------------------- what it does


def objects_of(one: seg.Segmentation) -> list[seg.Segmentation]:
    """A result as one for each of its seeds that has a mask, so that each can be corrected alone."""
    parts = zip(one.seeds, one.candidates, one.chosen, strict=True)
    objects = [replace(one, seeds=(seed,), candidates=(offered,), chosen=(i,)) for seed, offered, i in parts]
    return [each for each in objects if each.mask.any()]


@dataclass(frozen=True)
class Cut:
    """What a visitor has on the page."""

    many: list[seg.Segmentation]  # one for each prompt
    objects: list[seg.Segmentation]  # one for each object in them, of one seed each

    @classmethod
    def of(cls, many: list[seg.Segmentation]) -> "Cut":
        return cls(many, [each for one in many for each in objects_of(one)])

    @property
    def labels(self) -> list[str]:
        return [f"{number} {one.prompt}" for number, one in enumerate(self.objects, 1)]

    @property
    def step(self) -> int:
        """One pixel of what `draw` gives stands for so many of the picture's."""
        return -(-max(self.many[0].size) // MAX_SIDE)

    def verdict(self) -> str:
        """What was found and what was not, in words."""
        found = [f"**{label}**, score {one.score:.2f}" for label, one in zip(self.labels, self.objects, strict=True)]
        missing = [
            f"“{one.prompt}” is not there: its highest probability is {one.peak:.2f}, and {one.floor:.2f} is needed"
            for one in self.many
            if not one.found
        ]
        return "\n\n".join(["; ".join(found)] * bool(found) + missing)

    def draw(self, labels: list[str], view: str = VIEWS[0], prompt: str | None = None) -> np.ndarray:
        """The picture with the objects of these labels over it, or with a prompt's heat-map or coarse mask: uint8
        (h, w, 3), thinned out to MAX_SIDE."""
        thin = np.s_[:: self.step, :: self.step]
        one = next((one for one in self.many if one.prompt == prompt), self.many[0])
        image = one.image[thin]
        if view == "heat-map":
            colours = colormaps["inferno"](one.heatmap[thin], bytes=True)[..., :3]
            return (image.mean(2, keepdims=True) * 0.3 + colours * 0.7).astype(np.uint8)
        if view == "coarse mask":
            return np.where(one.coarse[thin][..., None], image, image // 4)
        numbered = zip(range(1, len(self.objects) + 1), self.objects, self.labels, strict=True)
        return draw.overlay(image, ((n, one.mask[thin], label) for n, one, label in numbered if label in labels))

    def bundle(self, labels: list[str], path: Path) -> Path:
        """Write a zip of the objects of these labels: a folder for each, as `Segmentation.save` writes it, and all of
        them in coco.json."""
        objects = [one for one, label in zip(self.objects, self.labels, strict=True) if label in labels]
        if not objects:
            raise ValueError("Nothing is switched on, so there is nothing to download.")
        with tempfile.TemporaryDirectory(dir=path.parent) as folder, zipfile.ZipFile(path, "w") as file:
            for number, one in enumerate(objects, 1):
                one.save(Path(folder) / f"{number}-{slug(one.prompt)}")
            result = {"file": "picture.png", **dataset.to_json([(one, one.instances) for one in objects])}
            prompts = list(dict.fromkeys(one.prompt for one in objects))
            (Path(folder) / "coco.json").write_text(json.dumps(dataset.coco([result], prompts)))
            for member in sorted(Path(folder).rglob("*.*")):
                file.write(member, member.relative_to(folder))
        return path


def read(path: str | None) -> np.ndarray:
    """A visitor's picture, uint8 (H, W, 3). Raises ValueError, in words for him, if it cannot be used."""
    if not path:
        raise ValueError("Choose a picture first: drop one on the page, paste it, or take “A drawn scene”.")
    picture = images.load(path)
    if picture.shape[0] * picture.shape[1] > MAX_PIXELS:
        H, W = picture.shape[:2]
        raise ValueError(f"The picture is {W} x {H} pixels; this page takes {MAX_PIXELS // 10**6} megapixels at most.")
    return picture


def read_prompts(text: str) -> list[str]:
    """One prompt a line. Raises ValueError for none and for too many."""
    prompts = list(dict.fromkeys(line.strip() for line in text.splitlines() if line.strip()))
    if not prompts:
        raise ValueError("Say what to cut out, one thing a line: “a person”.")
    if len(prompts) > MAX_PROMPTS:
        raise ValueError(f"These are {len(prompts)} prompts; this page takes {MAX_PROMPTS} at most.")
    return prompts


class Watched(Frames):
    """A clip that tells how far it has been read, with frames a second and the time left, and ends when told to."""

    def __init__(self, clip: Frames, progress: Callable[..., None], stopped: Callable[[], bool]):
        self.clip, self.progress, self.stopped = clip, progress, stopped
        self.name, self.size, self.fps = clip.name, clip.size, clip.fps
        self.length, self.identity, self.sound = clip.length, clip.identity, clip.sound

    @property
    def damage(self) -> str | None:
        return self.clip.damage

    def read(self, start: int = 0, stop: int | None = None) -> Iterator[np.ndarray]:
        began = time.perf_counter()
        for t, frame in enumerate(self.clip.read(start, stop), 1):
            yield frame
            if self.stopped():
                raise ValueError("Stopped.")
            rate = t / (time.perf_counter() - began)
            left = max(0, self.length - start - t) / rate
            self.progress((start + t, self.length), desc=f"{rate:.1f} frames/s, {left:.0f} s left", unit="frames")


def _in_words(gr, function: Callable) -> Callable:
    """The function, whose errors of use are shown to the visitor as they stand, but for where his files lie here."""

    @functools.wraps(function)
    def wrapped(*args, **kwargs):
        try:
            return function(*args, **kwargs)
        except ValueError as error:
            message = str(error)
            for path in (arg for arg in args if isinstance(arg, str) and os.path.isabs(arg)):
                message = message.replace(path, Path(path).name)
            raise gr.Error(message, duration=None) from error

    return wrapped


def sweep(folder: Path, age: float) -> None:
    """Delete the files in a folder, and in those in it, that are older than `age` seconds."""
    for path in folder.rglob("*"):
        if path.is_file() and time.time() - path.stat().st_mtime > age:
            path.unlink(missing_ok=True)


def _keep_sweeping(folder: Path) -> None:
    while folder.exists():
        sweep(folder, KEPT)
        time.sleep(SWEPT_EVERY)


# ------------------------------------------------------------------------------------------------- the page


def build(models: Models):
    """The page, a `gradio.Blocks` that is not served yet."""
    try:
        import gradio as gr
    except ImportError as error:
        raise ImportError("the page needs Gradio: pip install 'airl[app]'") from error

    work = tempfile.TemporaryDirectory(prefix="airl-app-")
    os.environ["GRADIO_TEMP_DIR"] = work.name  # where Gradio puts what visitors send
    queued = dict(concurrency_limit=1, concurrency_id="models")

    with gr.Blocks(title="AIRL", analytics_enabled=False) as page:
        page.work = work  # goes with the page
        gr.Markdown(f"# AIRL\nAt work here are {models.about}.")
        with gr.Tab("Cut out"):
            _cut_out(gr, models, Path(work.name), queued)
        with gr.Tab("Film"):
            _film(gr, models, Path(work.name), queued)
        with gr.Tab("What is this?"):
            _classify(gr, models, queued)
    threading.Thread(target=_keep_sweeping, args=(Path(work.name),), daemon=True).start()
    return page.queue(max_size=100)


def _picture(gr):
    """A picture that comes as the very file a visitor sent: `airl.images` reads it, and says what is wrong with it."""
    picture = gr.Image(label="Picture", type="filepath", image_mode=None, format="png")
    picture.preprocess = lambda payload: payload and payload.path
    return picture


def _cut_out(gr, models: Models, work: Path, queued: dict) -> None:
    state, history = gr.State(None, time_to_live=KEPT), gr.State([], time_to_live=KEPT)
    with gr.Row():
        with gr.Column():
            picture = _picture(gr)
            prompts = gr.Textbox(label="What to cut out, one thing a line", lines=3, placeholder="a person\na tie")
            with gr.Row():
                run = gr.Button("Cut out", variant="primary")
                example = gr.Button("A drawn scene")
            with gr.Accordion("More", open=False):
                sam = gr.Dropdown(models.sams, value=models.sams[0], label="SAM")
                recipe = gr.Dropdown(list(models.recipes), value="best", label="Recipe: how the heat-map becomes seeds")
                threshold = gr.Slider(
                    0.05, 0.95, models.recipes["best"].threshold, step=0.05, label="Threshold: heat-map to coarse mask"
                )
                seeding = gr.Dropdown(list(seg.STRATEGIES), value=models.recipes["best"].seeding, label="Seeding")
        with gr.Column():
            result = gr.Image(label="Result", interactive=False, format="png", buttons=["fullscreen"])
            words = gr.Markdown()
            with gr.Row():
                view = gr.Radio(VIEWS, value=VIEWS[0], label="Show")
                prompt = gr.Dropdown([], label="of which prompt", info="for heat-map and coarse mask")
            shown = gr.CheckboxGroup([], label="Objects")
            with gr.Accordion("Correct an object", open=False):
                gr.Markdown("Click on the result: the point is added to the object, or taken away from it.")
                chosen = gr.Dropdown([], label="Object")
                mode = gr.Radio(MODES, value=MODES[0], label="A click")
                with gr.Row():
                    x, y = gr.Number(0, label="x", precision=0), gr.Number(0, label="y", precision=0)
                    point = gr.Button("Use this point")
                    undo = gr.Button("Undo")
            download = gr.Button("Download what is switched on")
            file = gr.File(label="Masks, cut-outs and coco.json", visible=False)

    everything = [state, history, result, words, prompt, shown, chosen, file]

    def show(cut: Cut, before: list[Cut]):
        """What every change of the objects leads to."""
        labels = cut.labels
        return (
            cut,
            before,
            cut.draw(labels),
            cut.verdict(),
            gr.Dropdown([one.prompt for one in cut.many], value=cut.many[0].prompt),
            gr.CheckboxGroup(labels, value=labels),
            gr.Dropdown(labels, value=labels[0] if labels else None),
            gr.File(visible=False),
        )

    def scene():
        drawn = shapes.scene(int(np.random.default_rng().integers(2**31)), kind="several")
        phrases = [shapes.phrase(thing.colour, thing.shape) for thing in drawn.objects]
        return drawn.image, "\n".join(dict.fromkeys(phrases))

    def recipe_values(name):
        return models.recipes[name].threshold, models.recipes[name].seeding

    def cut_out(path, text, sam, recipe, threshold, seeding):
        segmenter = models.segmenter(sam)
        changes = vars(replace(models.recipes[recipe], threshold=threshold, seeding=seeding))
        return show(Cut.of(segmenter(read(path), read_prompts(text), **changes)), [])

    def correct(cut, before, sam, chosen, mode, x, y):
        if cut is None or chosen not in cut.labels:
            raise ValueError("There is no object to correct yet: cut something out first.")
        number = cut.labels.index(chosen)
        points = {"add" if mode == MODES[0] else "remove": [(x, y)]}
        corrected = objects_of(models.segmenter(sam).refine(cut.objects[number], **points))
        objects = [*cut.objects[:number], *corrected, *cut.objects[number + 1 :]]
        updates = show(replace(cut, objects=objects), [*before, cut][-UNDONE:])
        return (*updates[:4], gr.skip(), updates[5], gr.Dropdown(cut.labels, value=chosen), gr.File(visible=False))

    def clicked(cut, before, sam, chosen, mode, event: gr.SelectData):
        step = cut.step if cut else 1
        return correct(cut, before, sam, chosen, mode, *(place * step for place in event.index))

    def undone(cut, before):
        return show(before[-1], before[:-1]) if before else (gr.skip(),) * len(everything)

    def redraw(cut, labels, view, prompt):
        return cut.draw(labels, view, prompt) if cut else None

    def bundled(cut, labels):
        if cut is None:
            raise ValueError("There is nothing to download yet: cut something out first.")
        folder = Path(tempfile.mkdtemp(dir=work))
        return gr.File(str(cut.bundle(labels, folder / "airl.zip")), visible=True)

    example.click(scene, None, [picture, prompts])
    recipe.change(recipe_values, recipe, [threshold, seeding])
    gr.on(
        [run.click, prompts.submit],
        _in_words(gr, cut_out),
        [picture, prompts, sam, recipe, threshold, seeding],
        everything,
        **queued,
    )
    result.select(_in_words(gr, clicked), [state, history, sam, chosen, mode], everything, **queued)
    point.click(_in_words(gr, correct), [state, history, sam, chosen, mode, x, y], everything, **queued)
    undo.click(undone, [state, history], everything)
    gr.on([shown.input, view.input, prompt.input], redraw, [state, shown, view, prompt], result)
    download.click(_in_words(gr, bundled), [state, shown], file)


def _film(gr, models: Models, work: Path, queued: dict) -> None:
    stopped: set[str] = set()  # the sessions that have asked for it

    with gr.Row():
        with gr.Column():
            film = gr.File(label=f"Film, of {MAX_SECONDS} seconds at most", type="filepath")
            prompts = gr.Textbox(label="What to follow, one thing a line", lines=3, placeholder="a person")
            with gr.Row():
                run = gr.Button("Follow", variant="primary")
                cancel = gr.Button("Cancel")
                example = gr.Button("A drawn clip")
        with gr.Column():
            result = gr.Video(label="Result", interactive=False)
            words = gr.Markdown()
            file = gr.File(label="Overlay, masks and tracks.json", visible=False)

    def clip():
        drawn = clips.clip(int(np.random.default_rng().integers(2**31)), 40, kind="moving")
        path = Path(tempfile.mkdtemp(dir=work)) / "drawn.mp4"
        write_mp4((drawn.draw(t)[0] for t in range(40)), path, 10)
        return str(path), drawn.prompt

    def follow(path, text, request: gr.Request, progress=gr.Progress()):  # noqa: B008 (Gradio's way)
        stopped.discard(request.session_hash)
        if not path:
            raise ValueError("Choose a film first, or take “A drawn clip”.")
        wanted, source = read_prompts(text), open_clip(path, max_side=MAX_FILM_SIDE)
        if source.length > MAX_SECONDS * source.fps:
            raise ValueError(
                f"The film is {source.length / source.fps:.0f} seconds long; this page takes {MAX_SECONDS} at most. "
                "Cut it, or follow it with airl.seg.track, which takes any length."
            )
        folder = Path(tempfile.mkdtemp(dir=work))
        watched = Watched(source, progress, lambda: request.session_hash in stopped)
        tracking = models.tracker.track(watched, wanted, folder / "tracked", progress=False)
        archive = shutil.make_archive(folder / "airl", "zip", folder / "tracked")
        found = [f"**{one.id} {one.prompt}** in {len(one.frames)} of {len(tracking)} frames" for one in tracking.tracks]
        words = "; ".join(found) or "Nothing that was asked for is there."
        return str(tracking.video), words, gr.File(archive, visible=True)

    def stop(request: gr.Request):
        stopped.add(request.session_hash)

    example.click(clip, None, [film, prompts])
    run.click(_in_words(gr, follow), [film, prompts], [result, words, file], **queued)
    cancel.click(stop, queue=False)


def _classify(gr, models: Models, queued: dict) -> None:
    from airl.vit import plots

    model = models.classifier
    millions, classes = model.num_parameters / 1e6, ", ".join(model.config.classes)
    gr.Markdown(f"A ViT of {millions:.1f} million parameters answers. It knows {classes}, and nothing else.")
    with gr.Row():
        with gr.Column():
            picture = _picture(gr)
            run = gr.Button("What is this?", variant="primary")
        with gr.Column():
            label = gr.Label(label="Probabilities")
            attention = gr.Image(label="Attention rollout: what it looks at", interactive=False)

    def classify(path):
        square = images.central_square(read(path), model.config.image_size)
        batch = torch.from_numpy(square).permute(2, 0, 1)[None]  # (1, 3, H, W)
        figure = plots.attention_overlay(model, batch)
        return vit.predict(model, square).probabilities, Image.open(io.BytesIO(figure._repr_png_()))

    run.click(_in_words(gr, classify), picture, [label, attention], **queued)


if __name__ == "__main__":
    sys.exit(main())
