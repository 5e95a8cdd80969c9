"""Train a Vision Transformer on CIFAR-10 (or another data set of small images), evaluate it, look inside it."""

from pathlib import Path

from airl.vit.data import Dataset, Split, load_dataset
from airl.vit.evaluation import Evaluation, Prediction, attention_rollout, evaluate, predict
from airl.vit.model import ViT, ViTConfig
from airl.vit.recipes import MODELS, RECIPES, TrainConfig
from airl.vit.run import TrainingDiverged
from airl.vit.training import TrainResult, train

CAT = Path(__file__).with_name("tiny") / "cat.jpg"  # Chelsea, by Stefan van der Walt, who gave up all rights (CC0)

__all__ = [
    "CAT",
    "MODELS",
    "RECIPES",
    "Dataset",
    "Evaluation",
    "Prediction",
    "Split",
    "TrainConfig",
    "TrainResult",
    "TrainingDiverged",
    "ViT",
    "ViTConfig",
    "attention_rollout",
    "evaluate",
    "load_dataset",
    "predict",
    "train",
]


def __getattr__(name: str):
    if name == "plots":  # when it is asked for: matplotlib takes a second
        import importlib

        return importlib.import_module("airl.vit.plots")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
