import json

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from airl.vit import ViT, ViTConfig, attention_rollout
from airl.vit.model import Attention, DropPath

SMALL = dict(image_size=16, patch_size=4, dim=48, depth=3, heads=4, dropout=0.0)


def randomised(model: nn.Module) -> nn.Module:
    """Every parameter random, so that a parity test sees them all (biases and class tokens start at zero)."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model.eval()


def to_timm(model: ViT) -> VisionTransformer:
    c = model.config
    peer = VisionTransformer(
        img_size=c.image_size,
        patch_size=c.patch_size,
        num_classes=c.num_classes,
        embed_dim=c.dim,
        depth=c.depth,
        num_heads=c.heads,
        mlp_ratio=c.mlp_ratio,
        class_token=c.pool == "class",
        global_pool="token" if c.pool == "class" else "avg",
        fc_norm=False,
    )
    names = {"class_token": "cls_token", "position": "pos_embed", "stem.": "patch_embed.proj."}
    state = {}
    for name, value in model.state_dict().items():
        for ours, theirs in names.items():
            name = name.replace(ours, theirs)
        state[name] = value
    peer.load_state_dict(state)
    return peer.eval()


@pytest.mark.parametrize("pool", ["class", "mean"])
@pytest.mark.parametrize("shape", [SMALL, {}], ids=["small", "assignment"])
def test_logits_equal_timms_with_the_same_weights(shape, pool):
    model = randomised(ViT(ViTConfig(pool=pool, **shape)))
    images = torch.randn(3, 3, model.config.image_size, model.config.image_size)
    with torch.no_grad():
        # fp32 sums in another order: relative 1e-5 of logits of the order of 1, over 8 blocks.
        torch.testing.assert_close(model(images), to_timm(model)(images), rtol=1e-4, atol=1e-5)


def test_gradients_equal_timms():
    """In training a CPU takes another path through attention than in evaluation; it is the same function."""
    model = randomised(ViT(ViTConfig(**SMALL)))
    peer = to_timm(model)
    images = torch.randn(3, 3, 16, 16)
    model(images).square().sum().backward()
    peer(images).square().sum().backward()
    torch.testing.assert_close(model.blocks[0].attn.qkv.weight.grad, peer.blocks[0].attn.qkv.weight.grad, rtol=1e-3,
                               atol=1e-4)  # fmt: skip
    torch.testing.assert_close(model.position.grad, peer.pos_embed.grad, rtol=1e-3, atol=1e-4)


def test_the_default_is_the_assignments_model():
    config = ViTConfig()
    assert (config.image_size, config.patch_size, config.dim, config.depth, config.heads) == (32, 4, 256, 8, 8)
    assert (config.mlp_ratio, config.dropout, config.stem, config.pool) == (4.0, 0.1, "patch", "class")
    model = ViT(config)
    assert model.num_parameters == sum(p.numel() for p in to_timm(model).parameters()) < 6.4e6


def test_attention_maps_are_the_weights_that_the_forward_pass_uses():
    """Softmax weights captured from the maps reproduce torch's own attention output inside the real forward pass."""
    model = randomised(ViT(ViTConfig(**SMALL)))
    images = torch.randn(2, 3, 16, 16)
    seen = []

    def check(attn: Attention, inputs, output):
        q, k, v = attn.project(*inputs)
        seen.append((nn.functional.scaled_dot_product_attention(q, k, v), v))

    hooks = [block.attn.register_forward_hook(check) for block in model.blocks]
    maps = model.attention_maps(images)
    for hook in hooks:
        hook.remove()
    assert maps.shape == (2, 3, 4, 17, 17)
    torch.testing.assert_close(maps.sum(-1), torch.ones(2, 3, 4, 17))
    for block, (output, v) in enumerate(seen):
        torch.testing.assert_close(maps[:, block] @ v, output)
    assert not any(block.attn._forward_pre_hooks for block in model.blocks)


def test_rollout_of_uniform_and_of_single_minded_attention():
    T = 17
    uniform = torch.full((1, 3, 2, T, T), 1 / T)
    torch.testing.assert_close(attention_rollout(uniform), torch.full((1, 4, 4), 1 / 16))
    stare = torch.zeros(1, 1, 2, T, T)
    stare[..., 1 + 6] = 1  # every token reads patch 6 alone
    assert attention_rollout(stare).flatten().tolist() == [float(i == 6) for i in range(16)]


def test_drop_path_drops_whole_images_and_keeps_the_mean():
    torch.manual_seed(0)
    drop = DropPath(0.3).train()
    out = drop(torch.ones(20_000, 2, 3))
    per_image = out.flatten(1)
    assert (per_image == per_image[:, :1]).all()  # one decision an image
    assert per_image[:, 0].unique().tolist() == pytest.approx([0, 1 / 0.7])
    # Binomial: the standard error of the share of 20,000 is 0.0032; five of them.
    assert abs((per_image[:, 0] > 0).float().mean().item() - 0.7) < 0.016
    assert torch.equal(drop.eval()(out), out)


def test_drop_path_rises_linearly_over_the_blocks():
    model = ViT(ViTConfig(**(SMALL | dict(drop_path=0.2))))
    assert [block.drop_path.probability for block in model.blocks] == pytest.approx([0, 0.1, 0.2])


def test_conv_stem_gives_the_same_tokens_as_the_patch_stem():
    model = ViT(ViTConfig(**(SMALL | dict(stem="conv", pool="mean"))))
    assert model.stem(torch.randn(2, 3, 16, 16)).shape == (2, 48, 4, 4)
    assert model(torch.randn(2, 3, 16, 16)).shape == (2, 10)


@pytest.mark.parametrize(
    "wrong, message",
    [
        (dict(image_size=30), "image_size 30 is not divisible by patch_size 4"),
        (dict(dim=50), "dim 50 is not divisible by heads 8"),
        (dict(depth=0), "depth is 0"),
        (dict(dropout=1.0), "dropout is 1.0"),
        (dict(stem="resnet"), "stem is 'resnet'"),
        (dict(stem="conv", image_size=33, patch_size=3), "patch_size 3 is not a power of two"),
        (dict(pool="max"), "pool is 'max'"),
    ],
)
def test_a_wrong_shape_is_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        ViTConfig(**wrong)


def test_images_of_another_size_are_refused():
    with pytest.raises(ValueError, match=r"\(2, 3, 8, 8\).*\(B, 3, 16, 16\)"):
        ViT(ViTConfig(**SMALL))(torch.zeros(2, 3, 8, 8))


def test_save_and_load_keep_weights_and_configuration(tmp_path):
    model = randomised(ViT(ViTConfig(**SMALL, classes=("cat", "dog"), num_classes=2)))
    model.config.mean = (0.1, 0.2, 0.3)  # as training sets it, after construction
    model.save_pretrained(tmp_path / "model")
    assert {path.name for path in tmp_path.iterdir()} == {"model"}
    assert load_file(tmp_path / "model" / "model.safetensors").keys() == model.state_dict().keys()
    assert ModelCard.load(tmp_path / "model" / "README.md").data.tags

    again = ViT.from_pretrained(tmp_path / "model")
    assert again.config == model.config and not again.training
    images = torch.randn(2, 3, 16, 16)
    assert torch.equal(again(images), model(images))


def test_saving_again_keeps_a_users_model_card(tmp_path):
    model = ViT(ViTConfig(**SMALL))
    model.save_pretrained(tmp_path)
    (tmp_path / "README.md").write_text("mine")
    model.save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() == "mine"


def test_a_failed_save_leaves_the_saved_model(tmp_path, monkeypatch):
    model = randomised(ViT(ViTConfig(**SMALL)))
    model.save_pretrained(tmp_path / "model")

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_model", full)
    with pytest.raises(OSError, match="No space left"):
        ViT(ViTConfig(**SMALL)).save_pretrained(tmp_path / "model")
    monkeypatch.undo()
    assert torch.equal(ViT.from_pretrained(tmp_path / "model").position, model.position)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_missing_foreign_or_corrupt_model_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder 'runs/q1/model'"):
        ViT.from_pretrained("runs/q1/model")
    model = ViT(ViTConfig(**SMALL))

    model.save_pretrained(tmp_path / "corrupt")
    weights = tmp_path / "corrupt" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    model.save_pretrained(tmp_path / "foreign")
    (tmp_path / "foreign" / "config.json").write_text(json.dumps(dict(hidden_size=768)))
    (tmp_path / "empty").mkdir()
    for name in ("corrupt", "foreign", "empty"):
        with pytest.raises(ValueError, match=f"{name}' holds no ViT"):
            ViT.from_pretrained(tmp_path / name)
