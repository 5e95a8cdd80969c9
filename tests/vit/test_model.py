import json
import resource
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from timm.layers import PatchDropout, RotaryEmbeddingCat, apply_rot_embed_cat
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from airl.vit import ViT, ViTConfig, attention_rollout
from airl.vit.cpu import Dropout, attention
from airl.vit.model import Attention, DropPath, PatchDrop, rotate, rotations

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


def test_rotary_positions_are_timms():
    """timm turns neighbouring channels, which ours are apart by half a head: their order in a product is no matter."""
    config = ViTConfig(pool="mean", rotary=True, **SMALL)
    q, k = torch.randn(2, 3, 5, 16, 12)  # (B, nh, T, hs) each
    table = RotaryEmbeddingCat(12, temperature=100.0, in_pixels=False, feat_shape=(4, 4), grid_indexing="ij")
    ours = [rotate(x, rotations(config)) for x in (q, k)]
    theirs = [apply_rot_embed_cat(torch.stack(x.chunk(2, dim=-1), -1).flatten(-2), table.get_embed()) for x in (q, k)]
    # fp32 sums of 12 products of the order of 1, in another order
    torch.testing.assert_close(ours[0] @ ours[1].mT, theirs[0] @ theirs[1].mT, rtol=1e-5, atol=1e-5)


def test_a_rotary_model_rotates_each_kept_token_by_its_own_place():
    """Without dropping, an image whose patches are given in another order, with their places, has the same logits."""
    model = randomised(ViT(ViTConfig(pool="mean", rotary=True, **SMALL)))
    for block in model.blocks:
        block.attn.qkv.weight.data *= 100  # far from attention that looks everywhere alike
    images = torch.randn(2, 3, 16, 16)
    plain = ViT(ViTConfig(pool="mean", **SMALL))
    plain.load_state_dict(model.state_dict())
    assert not torch.allclose(plain.eval()(images), model(images), atol=1e-3)  # the rotations are used

    order = torch.stack([torch.randperm(16), torch.randperm(16)])  # (B, T)

    def shuffle(_, inputs, output):
        x, rotation = output
        return x.gather(1, order[:, :, None].expand_as(x)), rotation[:, 0, order]

    expected = model(images)
    hook = model.patch_drop.register_forward_hook(shuffle)
    torch.testing.assert_close(model(images), expected, rtol=1e-4, atol=1e-4)  # means and softmaxes in another order
    hook.remove()

    seen = []
    model.blocks[0].register_forward_pre_hook(lambda block, args: seen.append(args))
    model.train()
    model.patch_drop.probability = 0.5
    tokens = model.stem(images).flatten(2).mT + model.position
    model(images)
    x, rotation = seen[0]
    assert x.shape == (2, 8, 48) and rotation.shape == (2, 2, 8, 12)
    for image in range(2):
        places = [(tokens[image] == token).all(dim=1).nonzero().item() for token in x[image]]
        assert torch.equal(rotation[:, image], rotations(model.config)[:, places])


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.bfloat16, 3e-2)])
def test_both_paths_through_attention_are_one_function(dtype, tolerance):
    """In training a CPU takes its own path below fp32: outputs and gradients are scaled_dot_product_attention's.

    bf16 keeps 8 bits, and the two round at other places: 3e-2 of values of the order of 1.
    """
    generator = torch.Generator().manual_seed(0)
    q, k, v, weight = (torch.randn(2, 3, 17, 8, generator=generator).to(dtype) for _ in range(4))
    results = []
    for function in (attention, nn.functional.scaled_dot_product_attention):
        inputs = [x.clone().requires_grad_() for x in (q, k, v)]
        output = function(*inputs)
        (output * weight).sum().backward()
        results.append([output, *(x.grad for x in inputs)])
    for ours, theirs in zip(*results, strict=True):
        assert ours.dtype == dtype
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


def test_gradients_equal_timms():
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


@pytest.mark.parametrize("shape", [dict(), dict(pool="mean", rotary=True)], ids=["class token", "rotary"])
def test_attention_maps_are_the_weights_that_the_forward_pass_uses(shape):
    """With the maps as weights, the values give what each attention layer put out in the real forward pass."""
    model = randomised(ViT(ViTConfig(**SMALL, **shape)))
    images = torch.randn(2, 3, 16, 16)
    seen = []

    def check(attn: Attention, inputs, output):
        _, _, v = attn.project(*inputs)
        seen.append((attn.proj, v, output))

    hooks = [block.attn.register_forward_hook(check) for block in model.blocks]
    maps = model.attention_maps(images)
    for hook in hooks:
        hook.remove()
    T = model.position.shape[1]
    assert maps.shape == (2, 3, 4, T, T)
    torch.testing.assert_close(maps.sum(-1), torch.ones(2, 3, 4, T))
    for block, (proj, v, output) in enumerate(seen):
        torch.testing.assert_close(proj((maps[:, block] @ v).transpose(1, 2).flatten(2)), output)
    assert not any(block.attn._forward_pre_hooks for block in model.blocks)


def test_rollout_of_uniform_and_of_single_minded_attention():
    T = 17
    uniform = torch.full((1, 3, 2, T, T), 1 / T)
    torch.testing.assert_close(attention_rollout(uniform), torch.full((1, 4, 4), 1 / 16))
    stare = torch.zeros(1, 1, 2, T, T)
    stare[..., 1 + 6] = 1  # every token reads patch 6 alone
    assert attention_rollout(stare).flatten().tolist() == [float(i == 6) for i in range(16)]
    no_class_token = torch.zeros(1, 1, 2, 16, 16)
    no_class_token[..., 6] = 1  # half of every token's reach is its own, half is patch 6's
    expected = [(0.5 + (i == 6) * 8) / 16 for i in range(16)]
    assert attention_rollout(no_class_token).flatten().tolist() == pytest.approx(expected)
    with pytest.raises(ValueError, match="15 tokens"):
        attention_rollout(torch.zeros(1, 1, 1, 15, 15))


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


@pytest.mark.parametrize("probability, tokens", [(0.5, 64), (0.3, 64), (0.25, 4), (0.99, 4)])
def test_patch_drop_keeps_as_many_tokens_as_timms_of_each_image_its_own(probability, tokens):
    torch.manual_seed(0)
    drop = PatchDrop().train()
    drop.probability = probability
    x = torch.arange(tokens).expand(2000, tokens)[:, :, None] + torch.tensor([0.0, 0.5])  # (B, T, 2)
    out, _ = drop(x)
    assert out.shape == PatchDropout(probability, num_prefix_tokens=0).train()(x).shape
    assert torch.equal(out[:, :, 1], out[:, :, 0] + 0.5)  # whole tokens
    kept = torch.zeros(2000, tokens).scatter_(1, out[:, :, 0].long(), 1.0)
    assert (kept.sum(dim=1) == out.shape[1]).all()  # each at most once
    # Binomial: the standard error of each token's share of 2,000 images is at most 0.011; five of them.
    assert (kept.mean(dim=0) - out.shape[1] / tokens).abs().max() < 0.056
    assert drop.eval()(x)[0] is x


def test_the_class_token_is_never_dropped():
    model = randomised(ViT(ViTConfig(**SMALL))).train()
    model.patch_drop.probability = 0.8
    inputs = []
    model.blocks[0].register_forward_pre_hook(lambda block, args: inputs.append(args[0]))
    model(torch.randn(5, 3, 16, 16))
    assert inputs[0].shape == (5, 1 + 3, 48)
    assert torch.equal(inputs[0][:, 0], (model.class_token + model.position[:, :1])[0].expand(5, -1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_dropout_keeps_each_element_by_its_own_draw(dtype):
    """On a CPU four decisions come from one random number; they must be as independent as nn.Dropout's."""
    torch.manual_seed(0)
    dropout = Dropout(0.1).train()
    x = torch.ones(1001, 801, dtype=dtype, requires_grad=True)  # a count that four does not divide
    out = dropout(x)
    scale = torch.tensor(1 / 0.9, dtype=dtype)
    assert out.dtype == dtype and set(out.unique().tolist()) == {0.0, scale.item()}
    out.sum().backward()
    assert torch.equal(x.grad, out)
    kept = (out.detach() != 0).double()
    # Binomial: the standard error of a share of 800,000 is 0.0003, of a quarter of them 0.0007; five of them.
    assert abs(kept.mean() - 0.9) < 0.0017
    for lane in range(4):
        assert abs(kept.flatten()[lane::4].mean() - 0.9) < 0.0034
    neighbours = torch.corrcoef(torch.stack([kept.flatten()[:-1], kept.flatten()[1:]]))[0, 1]
    assert abs(neighbours) < 5 / 800_000**0.5  # correlations of independent draws have this standard error
    for probability in (1e-9, 1 - 1e-9):  # rounded to a 65,536th
        assert abs((Dropout(probability).train()(x) == 0).double().mean() - probability) < 1e-4
    assert torch.equal(dropout.eval()(x), x)


def test_dropout_acts_on_tokens_and_after_attention_and_both_layers_of_the_mlp():
    torch.manual_seed(0)
    model = ViT(ViTConfig(**(SMALL | dict(dropout=0.25)))).train()
    zeros = {}

    def count(name, index):
        return lambda _, inputs, *output: zeros.setdefault(name, []).append(
            ((output[0] if index is None else inputs[index]) == 0).float().mean().item()
        )

    model.blocks[0].register_forward_pre_hook(count("tokens", 0))
    for block in model.blocks:
        block.attn.register_forward_hook(count("attention", None))
        block.mlp.fc2.register_forward_pre_hook(count("hidden", 0))
        block.mlp.register_forward_hook(count("mlp", None))
    model(torch.randn(8, 3, 16, 16))
    assert {name: len(shares) for name, shares in zeros.items()} == dict(tokens=1, attention=3, hidden=3, mlp=3)
    # Binomial: the standard error of a share of 6,528 elements is 0.0054; five of them.
    assert all(abs(share - 0.25) < 0.027 for shares in zeros.values() for share in shares)


def test_drop_path_acts_on_both_branches():
    """With nearly every branch dropped the tokens pass through a block as they are."""
    block = ViT(ViTConfig(**(SMALL | dict(drop_path=0.5)))).blocks[2].train()
    block.drop_path.probability = 1 - 1e-12
    x = torch.randn(8, 17, 48)
    assert torch.equal(block(x), x) and not torch.equal(block.eval()(x), x)


@pytest.mark.parametrize("stem", ["patch", "conv"])
def test_the_blocks_get_contiguous_tokens(stem):
    model = ViT(ViTConfig(**(SMALL | dict(stem=stem, pool="mean"))))
    seen = []
    model.blocks[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].is_contiguous()))
    model(torch.randn(2, 3, 16, 16))
    assert seen == [True]


def test_drop_path_rises_linearly_over_the_blocks():
    model = ViT(ViTConfig(**(SMALL | dict(drop_path=0.2))))
    assert [block.drop_path.probability for block in model.blocks] == pytest.approx([0, 0.1, 0.2])


def test_conv_stem_keeps_each_patchs_place():
    """A bright spot at a patch's first pixel changes its token most, and leaves tokens three away (16 random stems)."""
    torch.manual_seed(0)
    stems = [ViT(ViTConfig(**(SMALL | dict(stem="conv", pool="mean", depth=1)))).eval().stem for _ in range(16)]
    dark = torch.zeros(1, 3, 16, 16)
    for row, column in ((0, 0), (1, 3), (3, 3)):
        bright = dark.clone()
        bright[..., max(0, 4 * row - 1) : 4 * row + 2, max(0, 4 * column - 1) : 4 * column + 2] = 1
        change = sum((stem(bright) - stem(dark)).norm(dim=1)[0] for stem in stems)  # (4, 4)
        assert change.argmax() == 4 * row + column
        far = [abs(r - row) > 2 or abs(c - column) > 2 for r in range(4) for c in range(4)]
        assert any(far) and (change.flatten()[torch.tensor(far)] == 0).all()


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
        (dict(rotary="yes", pool="mean"), "rotary is 'yes'; expected True or False"),
        (dict(rotary=True), "pool is 'class'"),
        (dict(rotary=True, pool="mean", dim=48, heads=8), "dim / heads is 6"),
        (dict(mlp_ratio=0), "mlp_ratio is 0"),
        (dict(dim="256"), "dim is '256'; expected a whole number"),
        (dict(dropout=None), "dropout is None; expected a number"),
        (dict(classes=("cat", "dog")), "classes holds 2 names; expected num_classes, 10"),
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


def test_models_of_one_configuration_do_not_share_it():
    config = ViTConfig(**SMALL)
    first, second = ViT(config), ViT(config)
    first.config.classes = tuple("abcdefghij")
    assert second.config.classes == config.classes == ()


def test_push_to_hub_uploads_what_save_pretrained_writes(monkeypatch):
    uploaded = {}

    def upload_folder(self, *, repo_id, folder_path, **_):
        uploaded[repo_id] = {path.name for path in Path(folder_path).iterdir()}

    monkeypatch.setattr("huggingface_hub.HfApi.create_repo", lambda _, repo_id, **__: SimpleNamespace(repo_id=repo_id))
    monkeypatch.setattr("huggingface_hub.HfApi.upload_folder", upload_folder)
    ViT(ViTConfig(**SMALL)).push_to_hub("me/vit")
    assert uploaded == {"me/vit": {"config.json", "model.safetensors", "README.md"}}


def test_saving_again_keeps_a_users_model_card(tmp_path):
    model = ViT(ViTConfig(**SMALL))
    model.save_pretrained(tmp_path)
    (tmp_path / "README.md").write_text("mine")
    model.save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() == "mine"


def test_a_failed_save_leaves_the_saved_model(tmp_path):
    """The kernel refuses to let any file grow past 10 kB."""
    model = randomised(ViT(ViTConfig(**SMALL)))
    model.save_pretrained(tmp_path / "model")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(Exception, match="File too large"):
            ViT(ViTConfig(**SMALL)).save_pretrained(tmp_path / "model")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert torch.equal(ViT.from_pretrained(tmp_path / "model").position, model.position)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_what_looks_like_a_folder_is_not_looked_for_on_the_hub(tmp_path, monkeypatch):
    def asked(*_, **__):
        raise OSError("no route to huggingface.co")

    monkeypatch.setattr("huggingface_hub.hub_mixin.hf_hub_download", asked)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    for name in ("runs/q1", "elsewhere/model", "./q1", "/nowhere/q1", "~/none/model", "q1"):
        with pytest.raises(FileNotFoundError, match="there is no folder '[^']*'; expected one"):
            ViT.from_pretrained(name)
    with pytest.raises(FileNotFoundError, match="no folder 'me/vit', and the Hugging Face Hub gave no ViT .*no route"):
        ViT.from_pretrained("me/vit")


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


def test_weights_from_the_hub_have_to_fit_exactly(monkeypatch):
    from huggingface_hub import PyTorchModelHubMixin

    asked, model = {}, ViT(ViTConfig(**SMALL)).train()
    monkeypatch.setattr(
        PyTorchModelHubMixin, "from_pretrained", classmethod(lambda cls, name, **how: asked.update(how) or model)
    )
    assert ViT.from_pretrained("owner/name") is model and not model.training
    assert asked["strict"]
