"""Spectral models on tracklets: pooled before the heads, for every backbone's way of heads."""

import pytest
import torch

import torchreid_spectral as ts
from torchreid_spectral.layers import FramePooling

SIZES = {"hacnn": (160, 64)}


def build(name, loss="triplet", **options):
    torch.manual_seed(0)
    return ts.build_model(f"spectral_{name}", 5, loss=loss, pretrained=False, **options)


def tracklets(name="osnet_x0_25", batch=4, length=3):
    generator = torch.Generator().manual_seed(0)
    return torch.rand(batch, length, 3, *SIZES.get(name, (64, 32)), generator=generator)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", ["osnet_x0_25", "pcb_p4", "hacnn", "resnet18"])
@pytest.mark.parametrize("method", ["avg", "attention"])
def test_pooled_before_heads_and_in_the_test(torchreid, name, method):
    model, x = build(name, pooling_method=method), tracklets(name)
    pool, seen = FramePooling(method), []
    handles = [
        head.walk.register_forward_hook(lambda m, inputs, y: seen.append(inputs[0]))
        for head in model.heads
    ]
    outputs, features = model(x)
    assert [output.shape for output in outputs] == [(4, 5)] * (2 * len(model.heads))
    assert [nodes.shape[0] for nodes in seen] == [4] * len(model.heads)
    parts = features if isinstance(features, (tuple, list)) else [features]
    assert all(part.shape[0] == 4 for part in parts)
    for handle in handles:
        handle.remove()
    torch.stack([output.square().sum() for output in outputs]).sum().backward()
    assert all(p.grad is not None for head in model.heads for p in head.parameters())
    model.eval()
    frames = model(x.flatten(0, 1)).unflatten(0, (4, 3))
    torch.testing.assert_close(model(x), pool(frames))


def test_heads_see_images_as_before_afterwards(torchreid):
    model = build("osnet_x0_25")
    model(tracklets())
    outputs, features = model(tracklets()[:, 0])
    assert outputs[0].shape == (4, 5) and features.shape == (4, 512)
    assert not any(head._forward_pre_hooks for head in model.heads)


def test_a_failing_forward_leaves_no_pooling_behind(torchreid):
    model = build("osnet_x0_25")
    with pytest.raises(RuntimeError):
        model(torch.rand(2, 3, 7, 64, 32))
    assert not any(head._forward_pre_hooks for head in model.heads)


def test_weights_of_images_serve_tracklets(torchreid):
    images, videos = build("osnet_x0_25"), build("osnet_x0_25", pooling_method="attention")
    assert list(images.state_dict()) == list(videos.state_dict())


def test_bottleneck_embeds_the_pooled_feature(torchreid):
    model = build("osnet_x0_25", test_feature="bottleneck", pooling_method="max").eval()
    x = tracklets()
    model.test_feature = "pooled"
    pooled = model(x)
    model.test_feature = "bottleneck"
    torch.testing.assert_close(model(x), model.heads[0].embed(pooled))


def test_errors(torchreid):
    with pytest.raises(ValueError, match="pooling_method must be one of .*got 'mean'"):
        build("osnet_x0_25", pooling_method="mean")
