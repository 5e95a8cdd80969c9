"""Train the small CLIPSeg and the small SAM that come with this package, on the scenes of `airl.scenes.shapes` and,
with --varied, on those of `training.variety`, which are drawn with more variety.

    python -m training.train_tiny --out airl/seg/tiny

or, at once, one core each:

    OMP_NUM_THREADS=1 python -m training.train_tiny --out airl/seg/tiny --only clipseg
    OMP_NUM_THREADS=1 python -m training.train_tiny --out airl/seg/tiny --only sam

They are transformers' CLIPSegForImageSegmentation and segment-anything's Sam in small shapes, trained from nothing,
on a CPU. One core each takes under an hour for weights that work; those in the package were then trained further (with
--resume; the JSON files beside them say how long). What they are for is to run the whole pipeline, truly, without a
download.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from copy import deepcopy
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from airl import runtime
from airl.files import atomic_write
from airl.scenes import shapes
from airl.seg.clipseg import ClipSeg
from airl.seg.sam import SamConfig, build_sam, read_sam, write_sam
from training import variety

SIDE = 128  # pixels: scenes fit into a square of this side, which is what the small SAM sees
CLIPSEG_SIDE = 96  # pixels: what the small CLIPSeg sees, stretched
MAX_OBJECTS = 16
TRAIN_SEED, TEST_SEED = 1_000_000, 2_000_000  # of the first scene; tests and benchmarks use seeds below these

# ------------------------------------------------------------------------------------------------- scenes


@dataclass
class Scenes:
    """N drawn scenes as tensors, padded below or on the right to a square."""

    images: Tensor  # uint8 (N, 3, SIDE, SIDE)
    owners: Tensor  # uint8 (N, SIDE, SIDE): the number of the object at each pixel, from 1; 0 is the background
    sizes: list[tuple[int, int]]  # (H, W) without the padding
    looks: list[list[tuple[str, str]]]  # colour and shape of every object
    prompts: list[str]  # one that makes the scene a test of its kind

    def __len__(self) -> int:
        return len(self.images)


def _draw(seed: int, varied: bool) -> tuple[np.ndarray, np.ndarray, tuple[int, int], list[tuple[str, str]], str]:
    height, width = [(SIDE, SIDE), (SIDE, SIDE), (SIDE * 3 // 4, SIDE), (SIDE, SIDE * 3 // 4)][seed % 4]
    # some are drawn large and made smaller, as larger pictures will be
    times = 2 if seed // 4 % 4 == 0 and not varied else 1
    size = (height * times, width * times)
    if varied:
        image, owner, looks = variety.scene(seed, size)
        prompt = shapes.phrase(looks[0][0], looks[-1][1])
    else:
        scene = shapes.scene(seed, size)
        image, owner = scene.image, np.zeros(size, np.uint8)
        for number, thing in enumerate(scene.objects, 1):
            owner[thing.mask] = number
        looks, prompt = [(thing.colour, thing.shape) for thing in scene.objects], scene.prompt
    image = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
    pad = ((0, SIDE - height), (0, SIDE - width))
    return (
        np.pad(image, (*pad, (0, 0))).transpose(2, 0, 1),  # (H, W, 3) -> (3, SIDE, SIDE)
        np.pad(owner[::times, ::times], pad),
        (height, width),
        looks,
        prompt,
    )


def draw(n: int, first_seed: int, varied: int = 0) -> Scenes:
    """`n` scenes as `airl.scenes.shapes` draws them, and `varied` ones as `training.variety` does."""
    with ProcessPoolExecutor() as workers:
        drawn = list(workers.map(_draw, range(first_seed, first_seed + n), [False] * n, chunksize=64))
        drawn += workers.map(_draw, range(first_seed, first_seed + varied), [True] * varied, chunksize=64)
    images, owners, sizes, looks, prompts = zip(*drawn, strict=True)
    return Scenes(
        torch.from_numpy(np.stack(images)),
        torch.from_numpy(np.stack(owners)),
        list(sizes),
        list(looks),
        list(prompts),
    )


def flip(tensors: list[Tensor], which: int) -> list[Tensor]:
    """One of the eight ways to flip and turn a square, the same for all of (..., S, S)."""
    if which & 1:
        tensors = [t.flip(-1) for t in tensors]
    if which & 2:
        tensors = [t.flip(-2) for t in tensors]
    return [t.transpose(-1, -2) for t in tensors] if which & 4 else tensors


def batches(n: int, size: int, steps: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """`steps` batches of `size` indices below `n`: every scene once, in a new order, then again."""
    order = np.empty(0, np.int64)
    for _ in range(steps):
        if len(order) < size:
            order = np.concatenate([order, rng.permutation(n)])
        yield order[:size]
        order = order[size:]


# ------------------------------------------------------------------------------------------------- training


def learn(
    name: str,
    model: nn.Module,
    losses: Iterator[Tensor],
    steps: int,
    rate: float,
    write: Callable[[nn.Module], None] = lambda average: None,
    progress: Path | None = None,
) -> None:
    """AdamW with a warm-up, a constant rate, and in the last 40% a slope to zero; the model ends as the moving average
    of its late weights, which `write` is given every 200 steps and at the end. What is needed to go on is kept in
    `progress` every 50 steps, and taken up if it is there, also with more or fewer steps."""
    decay = [p for p in model.parameters() if p.ndim >= 2]
    rest = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": decay, "weight_decay": 0.02}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98))
    warmup = min(100, max(1, steps // 30))

    def factor(step: int) -> float:
        return max(0.0, min((step + 1) / warmup, (steps - step) / max(1, 0.4 * steps), 1))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    average = deepcopy(model)
    began, shown, first = time.monotonic(), 0.0, 1
    kept = {"model": model, "average": average, "optimizer": optimizer, "schedule": schedule}
    if progress and progress.exists():
        states = torch.load(progress, weights_only=True)
        for key, part in kept.items():
            part.load_state_dict(states[key])
        first = states["step"] + 1
    for step, loss in zip(range(first, steps + 1), losses, strict=False):
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        keep = min(0.998, step / (step + 9))
        with torch.no_grad():
            for a, p in zip(average.parameters(), model.parameters(), strict=True):
                a.lerp_(p, 1 - keep)
        shown += loss.item()
        if step % 100 == 0 or step == steps:
            minutes = (time.monotonic() - began) / 60
            shown /= min((step - 1) % 100, step - first) + 1
            print(f"{name} step {step}/{steps}  loss {shown:.4f}  {minutes:.1f} min", flush=True)
            shown = 0.0
        if step % 200 == 0 or step == steps:
            write(average)
        if progress and (step % 50 == 0 or step == steps):
            with atomic_write(progress) as temporary:
                torch.save({key: part.state_dict() for key, part in kept.items()} | {"step": step}, temporary)
    model.load_state_dict(average.state_dict())


def steps_done(progress: Path | None) -> int:
    """By the run of `learn` that is to go on; a new run draws its batches by it, so that it does not repeat the old."""
    return torch.load(progress, weights_only=True)["step"] if progress and progress.exists() else 0


def mask_loss(logits: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
    """Binary cross-entropy plus dice, for each of (..., H, W)."""
    valid = torch.ones_like(target) if valid is None else valid
    cross = (F.binary_cross_entropy_with_logits(logits, target, reduction="none") * valid).mean((-2, -1))
    p = logits.sigmoid() * valid
    dice = 1 - (2 * (p * target).sum((-2, -1)) + 1) / (p.sum((-2, -1)) + target.sum((-2, -1)) + 1)
    return 5 * cross + dice


def sines(side: int, dim: int) -> Tensor:
    """Sines and cosines of rows and columns, (side * side, dim): position embeddings learn sooner from there."""
    wave = torch.arange(side)[:, None] * 20 ** -torch.linspace(0, 1, dim // 4)  # (side, dim / 4)
    line = torch.cat([wave.sin(), wave.cos()], 1)  # (side, dim / 2)
    return torch.cat([line[:, None].expand(-1, side, -1), line[None].expand(side, -1, -1)], 2).reshape(-1, dim)


# ------------------------------------------------------------------------------------------------- CLIPSeg

WORDS = ["<pad>", "<start>", "<unknown>", "<end>", "a", "an", "the", "of", "photo", "picture", "object"]
PHRASES = ("{}", "{}", "{}", "a photo of {}", "a picture of {}")
STRANGE = ("a dog", "a person", "the car", "a red dog", "a blue car", "the tree", "a green person", "a house")


def small_clipseg(where: runtime.Runtime) -> ClipSeg:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import CLIPSegConfig, CLIPSegForImageSegmentation, PreTrainedTokenizerFast

    words = WORDS + list(shapes.COLOURS) + list(shapes.SCENE_SHAPES)
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unknown>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<start> $A <end>", special_tokens=[("<start>", 1), ("<end>", 3)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<start>",
        eos_token="<end>",
        unk_token="<unknown>",
        model_max_length=16,
    )
    config = CLIPSegConfig(
        attn_implementation="eager",  # whose backward pass is the faster one on a CPU
        text_config=dict(
            vocab_size=len(words),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=16,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=3,  # transformers treats 2 in a way of its own
        ),
        vision_config=dict(
            hidden_size=96,
            intermediate_size=288,
            num_hidden_layers=6,
            num_attention_heads=3,
            image_size=CLIPSEG_SIDE,
            patch_size=8,
        ),
        projection_dim=64,
        reduce_dim=48,
        extract_layers=[1, 3, 5],
        decoder_num_attention_heads=2,
        decoder_intermediate_size=128,
        use_complex_transposed_convolution=True,
    )
    preprocessing = {
        "size": {"height": CLIPSEG_SIDE, "width": CLIPSEG_SIDE},
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "resample": 2,
    }
    model = CLIPSegForImageSegmentation(config)
    for module in model.decoder.modules():  # transformers gives these a spread of 1, far too much to learn from
        if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            module.reset_parameters()
    for module in model.clip.vision_model.modules():  # and these one that suits wider models
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
    with torch.no_grad():
        grid = sines(CLIPSEG_SIDE // 8, config.vision_config.hidden_size)
        model.clip.vision_model.embeddings.position_embedding.weight[1:] = 0.2 * grid
    return ClipSeg(model, fast, preprocessing, where)


def ask(scene: list[tuple[str, str]], own: str, count: int, rng: np.random.Generator) -> list[str]:
    """Prompts for a scene: its own, then, by turns, ones about an object there and ones near to that, mostly of its
    colour and another shape, which is what is hardest to tell."""
    colours, kinds = list(shapes.COLOURS), list(shapes.SCENE_SHAPES)
    prompts = [own]
    while len(prompts) < count:
        colour, shape = scene[rng.integers(len(scene))]
        if len(prompts) % 2:  # both, or the colour alone, or the shape alone
            said = [(colour, shape), (colour, None), (None, shape)][rng.choice(3, p=[0.5, 0.25, 0.25])]
        else:  # often not there; where it is, the truth says so
            chance = rng.random()
            if chance < 0.05:
                prompts.append(str(rng.choice(STRANGE)))
                continue
            another_colour, another_shape = str(rng.choice(colours)), str(rng.choice(kinds))
            near = [(colour, another_shape), (another_colour, shape), (another_colour, another_shape)]
            said = near[rng.choice(3, p=[0.6, 0.2, 0.2])]
            said = [said, (said[0], None), (None, said[1])][rng.choice(3, p=[0.7, 0.1, 0.2])]
        prompts.append(shapes.phrase(*said))
    return prompts


def matches(prompt: str, look: tuple[str, str]) -> bool:
    if prompt in STRANGE:
        return False
    colour, shape = shapes.parse(prompt)
    return colour in (None, look[0]) and shape in (None, look[1])


def squeeze(scenes: Scenes) -> tuple[Tensor, Tensor]:
    """The scenes as CLIPSeg sees them, stretched to its square, and their owners at half its resolution."""
    side = (CLIPSEG_SIDE, CLIPSEG_SIDE)
    images, owners = [], []
    for image, owner, (h, w) in zip(scenes.images, scenes.owners, scenes.sizes, strict=True):
        images.append(F.interpolate(image[None, :, :h, :w], side, mode="bilinear", antialias=True)[0])
        half = (CLIPSEG_SIDE // 2, CLIPSEG_SIDE // 2)
        owners.append(F.interpolate(owner[None, None, :h, :w], half, mode="nearest-exact")[0, 0])
    return torch.stack(images), torch.stack(owners)


def name_patches(guesses: Tensor, owner: Tensor, looks: Tensor) -> Tensor:
    """How far `guesses` (B, patches, colours + shapes + 2) are from the colour and the shape at every patch's middle.

    owner: (B, h, w), at half of CLIPSeg's resolution. looks: (B, MAX_OBJECTS, 2), of its objects; 0 is the background.
    """
    patches = owner[:, 2::4, 2::4].flatten(1).long()  # (B, patches)
    seen = looks.gather(1, patches[..., None].expand(-1, -1, 2))  # (B, patches, 2)
    parts = guesses.float().split([len(shapes.COLOURS) + 1, len(shapes.SCENE_SHAPES) + 1], -1)
    return sum(F.cross_entropy(part.flatten(0, 1), seen[..., i].flatten()) for i, part in enumerate(parts))


def looks_of(scenes: Scenes) -> Tensor:
    """Colour and shape of every object as numbers from 1: int64 (N, MAX_OBJECTS, 2)."""
    colours, kinds = list(shapes.COLOURS), list(shapes.SCENE_SHAPES)
    looks = torch.zeros(len(scenes), MAX_OBJECTS, 2, dtype=torch.long)
    for scene, objects in zip(looks, scenes.looks, strict=True):
        for number, (colour, shape) in enumerate(objects, 1):
            scene[number] = torch.tensor([colours.index(colour) + 1, kinds.index(shape) + 1])
    return looks


def vision_losses(clipseg: ClipSeg, helper: nn.Module, scenes: Scenes, steps: int, seed: int) -> Iterator[Tensor]:
    """One loss per step: of what `helper` tells from the vision tower's last activations."""
    rng = np.random.default_rng(seed)
    (images, owners), looks = squeeze(scenes), looks_of(scenes)
    for chosen in batches(len(scenes), 32, steps, rng):
        image, owner = flip([images[chosen], owners[chosen]], int(rng.integers(8)))
        with clipseg.runtime.autocast():
            guesses = helper(clipseg.look((image.float() / 255 - 0.5) / 0.5)[-1][:, 1:])
        yield name_patches(guesses, owner, looks[chosen])


def clipseg_losses(clipseg: ClipSeg, helper: nn.Module, scenes: Scenes, steps: int, seed: int) -> Iterator[Tensor]:
    """One loss per step: of the masks, of the decision whether the object is there, and of what `helper` tells."""
    rng = np.random.default_rng(seed)
    (images, owners), looks = squeeze(scenes), looks_of(scenes)
    batch, asked = 24, 3
    for chosen in batches(len(scenes), batch, steps, rng):
        image, owner = flip([images[chosen], owners[chosen]], int(rng.integers(8)))
        truth = torch.zeros(batch, asked, MAX_OBJECTS, dtype=torch.bool)  # whether a prompt is about an object
        said = []
        for b, i in enumerate(chosen):
            prompts = ask(scenes.looks[i], scenes.prompts[i], asked, rng)
            for number, look in enumerate(scenes.looks[i], 1):
                truth[b, :, number] = torch.tensor([matches(prompt, look) for prompt in prompts])
            said += [str(rng.choice(PHRASES)).format(prompt) for prompt in prompts]
        places = owner.flatten(1).long()  # (B, h * w)
        target = truth.gather(2, places[:, None].expand(-1, asked, -1)).float()  # (B, asked, h * w)

        with clipseg.runtime.autocast():
            activations = clipseg.look((image.float() / 255 - 0.5) / 0.5)
            guesses = helper(activations[-1][:, 1:])  # (B, patches, colours + shapes + 2)
        repeated = [a.float().repeat_interleave(asked, 0) for a in activations]
        logits = clipseg.decode(repeated, clipseg.embed(said))  # the decoder is faster in fp32
        target = target.view_as(logits)  # (B * asked, h, w)
        present = target.flatten(1).amax(1)
        sure = logits.flatten(1).topk(12).values.mean(1)
        yield (
            mask_loss(logits, target).mean()
            + F.binary_cross_entropy_with_logits(sure, present)
            + 0.5 * name_patches(guesses, owner, looks[chosen])
        )


def train_clipseg(
    scenes: Scenes,
    steps: int,
    where: runtime.Runtime,
    start: Path | None = None,
    seed: int = 0,
    progress: Path | None = None,
) -> ClipSeg:
    """First the vision tower alone, to name colours and shapes, which costs little; then all of it. With a folder to
    start from, only the latter, from the weights there, more gently."""
    torch.manual_seed(seed)
    clipseg = ClipSeg.from_pretrained(start, where) if start else small_clipseg(where)
    clipseg.model.requires_grad_(True)
    tower = clipseg.model.clip.vision_model
    helper = nn.Linear(tower.config.hidden_size, len(shapes.COLOURS) + len(shapes.SCENE_SHAPES) + 2)
    if not start:
        alone = steps * 5 // 3
        losses = vision_losses(clipseg, helper, scenes, alone, seed)
        learn("vision", nn.ModuleList([tower, helper]), losses, alone, rate=1e-3)
    losses = clipseg_losses(clipseg, helper, scenes, steps, seed + steps_done(progress))
    both = nn.ModuleList([clipseg.model, helper])
    learn("clipseg", both, losses, steps, rate=7e-4 if start else 1e-3, progress=progress)
    return clipseg


# ------------------------------------------------------------------------------------------------- SAM

SAM = SamConfig(
    width=96,
    depth=6,
    heads=3,
    global_blocks=(1, 3, 5),
    window=8,
    image_size=SIDE,
    patch_size=8,
    channels=96,
    decoder_mlp=192,
    doublings=3,  # masks as fine as the picture it sees
)


def some_pixel(where: Tensor) -> Tensor:
    """A random pixel of each of N masks (N, H, W), anywhere if empty: XY, float (N, 1, 2)."""
    weight = where.flatten(1).float()
    weight[weight.sum(1) == 0] = 1
    flat = weight.multinomial(1)  # (N, 1)
    width = where.shape[-1]
    return torch.stack([flat % width, flat // width], -1).float()


def box_of(masks: Tensor) -> Tensor:
    """XYXY of the outermost pixels of N masks that are not empty: float (N, 4)."""
    columns, rows = masks.any(1).int(), masks.any(2).int()
    side = masks.shape[-1] - 1
    return torch.stack(
        [columns.argmax(1), rows.argmax(1), side - columns.flip(1).argmax(1), side - rows.flip(1).argmax(1)], 1
    ).float()


def sam_losses(sam: nn.Module, scenes: Scenes, steps: int, seed: int, where: runtime.Runtime) -> Iterator[Tensor]:
    """One loss per step, as SAM was trained: the best of its three masks learns from the truth, and the predicted
    quality from the IoU of each. What is pointed at is one object or, at times, the background."""
    rng = np.random.default_rng(seed)
    batch, asked = 8, 6
    valid = torch.zeros(len(scenes), SIDE, SIDE, dtype=torch.bool)
    for i, (h, w) in enumerate(scenes.sizes):
        valid[i, :h, :w] = True
    for chosen in batches(len(scenes), batch, steps, rng):
        image, owner, inside = flip([scenes.images[chosen], scenes.owners[chosen], valid[chosen]], int(rng.integers(8)))
        pixels = ((image - sam.pixel_mean) / sam.pixel_std) * inside[:, None]
        with where.autocast():
            features = sam.image_encoder(pixels)
        features = features.float()
        with_box, with_mask, negatives = rng.random() < 0.4, rng.random() < 0.2, int(rng.choice([0, 0, 0, 1, 2]))
        total = torch.zeros(())
        for b, i in enumerate(chosen):
            numbers = torch.from_numpy(rng.integers(1, len(scenes.looks[i]) + 1, asked))
            if rng.random() < 0.3:
                numbers[0] = 0  # the background
            target = (owner[b] == numbers[:, None, None]) & inside[b]  # (asked, SIDE, SIDE)
            points = [some_pixel(target)] + [some_pixel(~target & inside[b]) for _ in range(negatives)]
            labels = torch.tensor([1] + [0] * negatives).expand(asked, -1)
            boxes = guess = None
            if with_box:
                boxes = box_of(target)
                extent = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
                boxes = boxes + (torch.rand(asked, 4) - 0.5) * 0.15 * extent
            if with_mask:  # as coarse as a heat-map
                coarse = F.interpolate(target[:, None].float(), (16, 16), mode="bilinear", antialias=True)
                guess = F.interpolate(coarse, sam.prompt_encoder.mask_input_size, mode="bilinear")
                guess = guess.clamp(1e-3, 1 - 1e-3).logit() * 1.3
            sparse, dense = sam.prompt_encoder(points=(torch.cat(points, 1), labels), boxes=boxes, masks=guess)
            low, quality = sam.mask_decoder(
                image_embeddings=features[b : b + 1],
                image_pe=sam.prompt_encoder.get_dense_pe(),
                sparse_prompt_embeddings=sparse,
                dense_prompt_embeddings=dense,
                multimask_output=True,
            )
            logits = F.interpolate(low, (SIDE, SIDE), mode="bilinear", align_corners=False)  # (asked, 3, SIDE, SIDE)
            wanted = target[:, None].expand_as(logits)
            loss = mask_loss(logits, wanted.float(), inside[b].float())  # (asked, 3)
            with torch.no_grad():
                guessed = (logits > 0) & inside[b]
                iou = (guessed & wanted).sum((2, 3)) / (guessed | wanted).sum((2, 3)).clamp(min=1)
            total = total + loss.amin(1).mean() + 0.1 * loss.mean() + F.mse_loss(quality, iou)
        yield total / batch


def small_sam() -> nn.Module:
    """With random weights, but for what learns sooner from a good start."""
    sam = build_sam(SAM)
    finest = sam.mask_decoder.output_upscaling[-2]
    tent = torch.tensor([0.25, 0.75, 0.75, 0.25])  # enlarges bilinearly
    with torch.no_grad():
        grid = sines(SIDE // SAM.patch_size, SAM.width)
        sam.image_encoder.pos_embed.copy_(0.2 * grid.view(1, SIDE // SAM.patch_size, -1, SAM.width))
        finest.weight.copy_(torch.eye(finest.in_channels)[..., None, None] * tent[:, None] * tent)
        finest.bias.zero_()
    return sam


def train_sam(
    scenes: Scenes,
    steps: int,
    where: runtime.Runtime,
    start: Path | None = None,
    seed: int = 0,
    progress: Path | None = None,
) -> nn.Module:
    """From random weights, or, more gently, from those of a file, which may be of coarser masks."""
    torch.manual_seed(seed)
    sam = small_sam()
    if start:
        sam.load_state_dict(read_sam(start).state_dict(), strict=False)
    done = steps_done(progress)
    torch.manual_seed(seed + done)
    losses = sam_losses(sam, scenes, steps, seed + done, where)
    learn("sam", sam, losses, steps, rate=5e-4 if start else 1e-3, progress=progress)
    return sam.eval()


# ------------------------------------------------------------------------------------------------- both


def write_clipseg(clipseg: ClipSeg, folder: Path) -> None:
    """As transformers saves it, in half the bytes."""
    model = deepcopy(clipseg.model).half()
    model.save_pretrained(folder)
    clipseg.tokenizer.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(clipseg.preprocessing, indent=2))


def note(path: Path, command: str, resumed: bool, where: runtime.Runtime, began: float) -> None:
    """Tell beside the weights how they were made: a list of commands, of which those after the first went on."""
    entry = {
        "command": f"python -m training.{command}{' --resume' * resumed}",
        "date": str(date.today()),
        "machine": str(where),
        "minutes": round((time.monotonic() - began) / 60, 1),
    }
    before = json.loads(path.read_text()) if resumed else []
    path.write_text(json.dumps([*before, entry], indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the weights, such as airl/seg/tiny")
    parser.add_argument("--scenes", type=int, default=12_000, help="how many scenes to draw as shapes.py does")
    parser.add_argument("--varied", type=int, default=0, help="how many more to draw as variety.py does")
    parser.add_argument("--clipseg-steps", type=int, default=2_600)
    parser.add_argument("--sam-steps", type=int, default=3_000)
    parser.add_argument("--only", choices=["clipseg", "sam"], help="train one of the two, keep the other")
    parser.add_argument("--resume", action="store_true", help="train what is in OUT further")
    parser.add_argument("--progress", type=Path, help="folder to keep what a run needs to go on after an end")
    parser.add_argument("--seed", type=int, default=0, help="another one draws other scenes")
    options = parser.parse_args()
    where = runtime.choose("cpu", "fp32")  # which is the fastest for models as small as these
    began = time.monotonic()
    scenes = draw(options.scenes, TRAIN_SEED + 50_000 * options.seed, options.varied)
    print(f"drew {len(scenes)} scenes in {time.monotonic() - began:.0f} s")
    options.out.mkdir(parents=True, exist_ok=True)
    for part, steps in (("clipseg", options.clipseg_steps), ("sam", options.sam_steps)):
        if options.only not in (None, part):
            continue
        print(f"training {part} on {where}")
        progress = options.progress and options.progress / f"{part}.pt"
        began = time.monotonic()
        if part == "clipseg":
            start = options.out / "clipseg" if options.resume else None
            clipseg = train_clipseg(scenes, steps, where, start, options.seed, progress)
            write_clipseg(clipseg, options.out / "clipseg")
        else:
            start = options.out / "sam.safetensors" if options.resume else None
            sam = train_sam(scenes, steps, where, start, options.seed, progress)
            write_sam(sam.half(), SAM, options.out / "sam.safetensors")
        command = f"train_tiny --out {options.out} --only {part} --scenes {options.scenes} --varied {options.varied}"
        command += f" --{part}-steps {steps}"
        note(options.out / f"{part}.json", f"{command} --seed {options.seed}", options.resume, where, began)


if __name__ == "__main__":
    main()
