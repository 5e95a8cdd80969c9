"""AIRL: train a Vision Transformer on CIFAR-10 (`airl.vit`), cut objects out of photos by text (`airl.seg`)."""

__version__ = "0.1.0"
