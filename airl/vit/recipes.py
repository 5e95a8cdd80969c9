"""Training recipes as named values: a name picks a model's shape (MODELS) and how it is trained (RECIPES)."""

from dataclasses import dataclass, field

from airl.vit.model import ViTConfig


@dataclass(frozen=True)
class TrainConfig:
    """How a model is trained; the defaults are the assignment's.

    `name` and `about` only describe; a run resumes whatever they say.
    """

    name: str = field(default="custom", compare=False)
    about: str = field(default="", compare=False, repr=False)  # what it is for and has been measured to reach

    epochs: int = 200  # passes over the training images; the cosine's half period
    batch_size: int = 128  # images a step, over all processes
    lr: float = 1e-3  # AdamW's peak learning rate
    weight_decay: float = 0.05
    warmup_epochs: int = 0  # the learning rate rises linearly before the cosine
    label_smoothing: float = 0.1
    grad_clip: float | None = None  # largest norm of all gradients together
    ema_decay: float | None = None  # average the weights over steps; the average is evaluated and returned

    crop_padding: int = 4  # pixels of black around an image before a random crop
    flip: bool = True  # mirror half of the images
    auto_augment: bool = True  # AutoAugment's CIFAR-10 policy
    random_erasing: float = 0.0  # probability
    mixup_alpha: float = 0.0  # of the Beta distribution; 0 is off
    cutmix_alpha: float = 0.0
    mix_probability: float = 0.5  # that an image is mixed at all, where mixup or cutmix is on
    mix_until: float = 0.75  # share of the epochs after which images are no longer mixed

    precision: str = "auto"  # "fp32", "bf16", "fp16", or what the hardware is fast at
    compile: bool = False  # torch.compile: a minute or more to start, then faster steps
    seed: int = 0

    def __post_init__(self):
        for name in ("epochs", "batch_size", "lr"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; expected more than 0")
        if not 0 <= self.warmup_epochs < self.epochs:
            raise ValueError(f"warmup_epochs is {self.warmup_epochs}; expected less than epochs, {self.epochs}")
        for name in ("label_smoothing", "random_erasing", "mix_probability", "mix_until"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected a share in [0, 1]")


MODELS = {
    "assignment": ViTConfig(),
    "quick": ViTConfig(dim=96, depth=4, heads=4, dropout=0.0, stem="conv", pool="class"),
    "best": ViTConfig(dropout=0.0, drop_path=0.1, stem="conv", pool="mean"),
}

RECIPES = {
    "assignment": TrainConfig(
        name="assignment",
        about="The assignment's configuration to the letter, for 200 passes over CIFAR-10. Not yet measured to its "
        "end; the README's results table has what was measured.",
    ),
    "quick": TrainConfig(
        name="quick",
        about="Shows every step in a minute or two on two CPU cores, on the embedded shapes.",
        epochs=5,
        batch_size=64,
        warmup_epochs=1,
        grad_clip=1.0,
        auto_augment=False,
    ),
    "best": TrainConfig(
        name="best",
        about="What published from-scratch results favour: warm-up, mixup and cutmix but for the last quarter, "
        "random erasing, averaged weights, a convolutional stem and mean pooling. Not tuned or measured here yet.",
        warmup_epochs=10,
        grad_clip=1.0,
        ema_decay=0.999,
        random_erasing=0.25,
        mixup_alpha=0.8,
        cutmix_alpha=1.0,
    ),
}
