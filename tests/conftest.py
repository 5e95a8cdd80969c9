"""Models of the real kinds, but tiny and random, so that they load in no time and run anywhere."""

import pytest
import torch

from airl import runtime
from airl.seg.sam import SamConfig, build_sam
from tests.pretend_gpu import A100, T4, pretend_gpu

CPU = runtime.Runtime(torch.device("cpu"), "fp32")
WORDS = ["<pad>", "<start>", "<unknown>", "<end>", "a", "the", "photo", "of", "red", "blue", "circle", "star"]


def pytest_collection_modifyitems(items):
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="there is no CUDA GPU"))


@pytest.fixture(scope="session")
def cpu():
    return CPU


@pytest.fixture(params=[T4, A100], ids=["T4", "A100"])
def gpu(request):
    with pretend_gpu(*request.param) as gpu:
        gpu.kind = request.param
        yield gpu


@pytest.fixture
def a100():
    """Where it makes no difference which one: the embedded models run in fp32 on any GPU."""
    with pretend_gpu(*A100) as gpu:
        yield gpu


@pytest.fixture(scope="session")
def tiny_tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<unknown>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<start> $A <end>", special_tokens=[("<start>", 1), ("<end>", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<start>",
        eos_token="<end>",
        unk_token="<unknown>",
        model_max_length=12,
    )


@pytest.fixture(scope="session")
def tiny_clipseg():
    from transformers import CLIPSegConfig, CLIPSegForImageSegmentation

    torch.manual_seed(0)
    config = CLIPSegConfig(
        text_config=dict(
            vocab_size=len(WORDS),
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=12,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=3,
        ),
        vision_config=dict(
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=4,
            num_attention_heads=2,
            image_size=32,
            patch_size=16,
        ),
        projection_dim=16,
        reduce_dim=16,
        extract_layers=[0, 2, 3],
        decoder_num_attention_heads=2,
        decoder_intermediate_size=32,
        use_complex_transposed_convolution=True,
    )
    model = CLIPSegForImageSegmentation(config).eval()
    with torch.no_grad():  # let the prompt matter, and keep the probabilities off 0 and 1
        decoder = model.decoder
        drawn = [decoder.film_mul, decoder.film_add, *decoder.reduces, *decoder.transposed_convolution[::2]]
        for layer in drawn:  # versions of transformers differ in how widely they draw these
            layer.weight.div_(layer.weight.std())
        model.clip.text_projection.weight.mul_(10)
        model.decoder.film_mul.weight.mul_(10)
        model.decoder.transposed_convolution[4].weight.mul_(0.05)
    return model


TINY_SAM = SamConfig(
    width=32, depth=2, heads=2, global_blocks=(1,), window=4, image_size=64, patch_size=8, channels=32, decoder_mlp=32
)


@pytest.fixture(scope="session")
def tiny_sam_config():
    return TINY_SAM


@pytest.fixture(scope="session")
def tiny_sam():
    torch.manual_seed(0)
    return build_sam(TINY_SAM).eval()


@pytest.fixture(scope="session")
def tiny_sam2():
    from transformers import Sam2Config, Sam2Model

    torch.manual_seed(0)
    config = Sam2Config(
        vision_config=dict(
            backbone_config=dict(
                model_type="sam2_hiera_det_model",
                hidden_size=16,
                embed_dim_per_stage=[16, 32, 64, 128],
                num_attention_heads_per_stage=[1, 2, 4, 8],
                blocks_per_stage=[1, 1, 2, 1],
                global_attention_blocks=[3],
                window_size_per_stage=[4, 4, 4, 4],
                image_size=[128, 128],
            ),
            backbone_channel_list=[128, 64, 32, 16],
            backbone_feature_sizes=[[32, 32], [16, 16], [8, 8]],
            fpn_hidden_size=32,
        ),
        prompt_encoder_config=dict(hidden_size=32, image_size=128, patch_size=16),
        mask_decoder_config=dict(hidden_size=32, mlp_dim=32, iou_head_hidden_dim=32),
    )
    model = Sam2Model(config).eval()
    with torch.no_grad():  # let the prompt and the picture matter, and the logits be far from 0
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.normal_(0, weight[0].numel() ** -0.5)
    return model


@pytest.fixture(scope="session")
def small_sam3(tiny_tokenizer):
    """A function that makes the configuration of a small SAM 3, and that of its vision encoder as a dict."""
    from transformers import Sam3Config

    def configuration(width: int, heads: int, queries: int):
        small, layers = dict(hidden_size=width, num_attention_heads=heads), dict(intermediate_size=32, num_layers=1)
        vit = dict(intermediate_size=48, num_hidden_layers=2, image_size=56, window_size=2, global_attn_indexes=[1])
        text = dict(intermediate_size=48, num_hidden_layers=2, projection_dim=16, max_position_embeddings=32)
        tokens = dict(vocab_size=len(tiny_tokenizer), pad_token_id=0, bos_token_id=1, eos_token_id=3)
        vision = dict(
            backbone_config=dict(model_type="sam3_vit_model", pretrain_image_size=56, **small, **vit),
            fpn_hidden_size=width,
            backbone_feature_sizes=[[16, 16], [8, 8], [4, 4]],
        )
        config = Sam3Config(
            vision_config=vision,
            text_config=dict(model_type="clip_text_model", **small, **text, **tokens),
            geometry_encoder_config=dict(**small, **layers),
            detr_encoder_config=dict(**small, **layers),
            detr_decoder_config=dict(num_queries=queries, **small, **layers),
            mask_decoder_config=small,
        )
        return config, vision

    return configuration


@pytest.fixture(scope="session")
def tell_apart():
    @torch.no_grad()
    def tell_apart(model) -> None:
        """Let the queries and prompts of a random SAM 3 differ, and its masks have pixels inside and outside."""
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and ("text" in name or "decoder" in name or "scoring" in name):
                parameter.mul_(4)

    return tell_apart
