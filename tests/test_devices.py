"""What is computed on a GPU stays there and meets nothing of the CPU's, shown without a GPU."""

import copy

import numpy as np
import pytest
import torch

import torchreid_spectral as ts
from tests.pretended_gpu import GPUTensor, pretended_gpu
from torchreid_spectral.config import build, engines, get_default_config, merge_options
from torchreid_spectral.evaluation import Whitening
from torchreid_spectral.inference.network import Extractor, FeatureNetwork
from torchreid_spectral.layers.axes import AXES
from torchreid_spectral.losses import DarkRankLoss
from torchreid_spectral.losses.registry import ID_LOSSES, METRIC_LOSSES
from torchreid_spectral.rerank import RERANKERS, build_reranker

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
MODEL = ["model.name", "spectral_osnet_x0_25", "loss.name", "spectral"]
OPTIONS = [
    *(["loss.id", name] for name in ID_LOSSES),
    *(["loss.metric", f"['{name}']", "loss.metric_on", "both"] for name in METRIC_LOSSES),
    ["spectral.stripes", "2", "spectral.pooling", "gem"],
    ["spectral.neck", "bnneck", "spectral.test_feature", "bottleneck"],
    ["spectral.memory", "8"],
    ["spectral.learn_temperature", "True"],
    ["spectral.steps", "2"],
    ["spectral.top_k", "3", "spectral.mutual", "True", "spectral.normalization", "symmetric"],
    ["spectral.heads", "2", "spectral.group_shuffling", "True"],
    ["spectral.walked_feature", "bottleneck", "spectral.detach_transition", "True"],
    ["spectral.supervision", "plain_twice"],
    *(
        ["model.attention", f"[{{'after': 'conv4', 'over': '{over}'{more}}}]"]
        for over, more in zip(AXES, ("", "", "", ", 'frames': 2"))
    ),
    [
        "model.attention",
        "[{'after': 'conv4', 'over': 'pixels', 'similarity': 'appearance_and_position'}]",
    ],
]


class Data:
    """A data manager of nothing."""

    num_train_pids, sources, train_loader, test_loader = 4, [], None, {}


@pytest.mark.parametrize("options", OPTIONS, ids=" ".join)
def test_a_step_of_training(torchreid, monkeypatch, options):
    """Losses and figures of a batch, and the test feature: all there, and what the CPU finds."""
    from torchreid_spectral.engine.base import ReportingMixin

    monkeypatch.setattr(ReportingMixin, "_loader", lambda self, loader: loader)
    cfg = get_default_config()
    merge_options(cfg, [*MODEL, *options])
    cfg.use_gpu = False
    torch.manual_seed(0)
    with build.active_defaults(cfg):
        model = ts.build_model(cfg.model.name, 4, cfg.loss.name, False)
        engine = engines.build_engine(cfg, Data, model, build.build_optimizer(cfg, model), None)
    images, targets = torch.randn(8, 3, 64, 32), torch.arange(4).repeat_interleave(2)
    weights, criterion = copy.deepcopy(model.state_dict()), copy.deepcopy(engine.criterion)
    with torch.no_grad():
        expected, figures = engine.compute_losses(engine.forward(images), targets)
        feature = model.eval()(images)
    model.load_state_dict(weights)
    engine.criterion = criterion
    with pretended_gpu():
        model.to("cuda").train()
        loss, shown = engine.compute_losses(engine.forward(images.cuda()), targets.cuda())
        found = model.eval()(images.cuda())
        assert loss.is_cuda and found.is_cuda
        there = {name: value for name, value in shown.items() if isinstance(value, torch.Tensor)}
        assert all(value.is_cuda for value in there.values())
        torch.testing.assert_close(loss.cpu(), expected)
        torch.testing.assert_close(found.cpu(), feature)
        for name, value in there.items():
            torch.testing.assert_close(value.cpu(), figures[name])


@pytest.mark.parametrize("inductive", [False, True])
@pytest.mark.parametrize("cameras", ["none", "standardize"])
@pytest.mark.parametrize("name", RERANKERS)
def test_reranking(name, cameras, inductive):
    generator = torch.Generator().manual_seed(0)
    gallery, query = (torch.randn(count, 8, generator=generator) for count in (40, 5))
    ids = torch.arange(40) % 3

    def answered(gallery, query):
        reranker = build_reranker(name, camera_normalization=cameras).fit(gallery, ids)
        matrix = reranker.distance_matrix(query, camids=ids[:5], inductive=inductive)
        return matrix, *reranker.rank(query, 10, camids=ids[:5], inductive=inductive)

    expected = answered(gallery, query)
    with pretended_gpu():
        found = answered(gallery.cuda(), query.cuda())
        assert all(each.is_cuda for each in found)
        for each, wanted in zip(found, expected):
            torch.testing.assert_close(each.cpu(), wanted)


def test_augmentation(torchreid):
    from torchreid_spectral import _compat
    from torchreid_spectral.data.device_transforms import DeviceTransforms

    words = ["random_flip", "random_crop", "random_pad_crop", "color_jitter", "random_erase"]
    train, _ = _compat.submodule("data.transforms").build_transforms(32, 16, transforms=words)
    images = torch.randint(256, (16, 3, 32, 16), dtype=torch.uint8)
    torch.manual_seed(0)
    expected = DeviceTransforms(train)(images)
    with pretended_gpu():
        torch.manual_seed(0)
        found = DeviceTransforms(train)(images.cuda())
        assert found.is_cuda
        torch.testing.assert_close(found.cpu(), expected)


@pytest.mark.parametrize("method", ["pca", "zca", "iterative"])
def test_whitening(method):
    features = torch.randn(20, 6, generator=torch.Generator().manual_seed(0))
    expected = Whitening(method).fit(features).transform(features)
    with pretended_gpu():
        there = features.cuda()
        found = Whitening(method).fit(there).transform(there)
        assert found.is_cuda
        torch.testing.assert_close(found.cpu().abs(), expected.abs())


@pytest.mark.parametrize("kind", ["soft", "hard"])
def test_distillation(kind):
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(8, 6, generator=generator) for _ in range(2))
    expected = DarkRankLoss(kind)(student, teacher)
    with pretended_gpu():
        found = DarkRankLoss(kind)(student.cuda(), teacher.cuda())
        assert found.is_cuda
        torch.testing.assert_close(found.cpu(), expected)


def test_extraction(torchreid):
    """Images come from the CPU, features go back to it; the weights stay on the GPU."""
    model = ts.build_model("spectral_osnet_x0_25", 4, pretrained=False).eval()
    images = torch.rand(3, 3, 64, 32)
    network = FeatureNetwork(model, (0.5,) * 3, (0.2,) * 3, flip=True, unit=True)
    expected = Extractor(network, torch.device("cpu"))(images)
    with pretended_gpu():
        found = Extractor(network, torch.device("cuda"))(images)
        assert next(model.parameters()).is_cuda
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_what_pretends_refuses_what_a_gpu_refuses():
    with pretended_gpu():
        x = torch.zeros(3, 2).cuda()
        assert isinstance(x, GPUTensor) and x.device == torch.device("cuda", 0)
        assert (x + 1).is_cuda and torch.arange(3, device=x.device).is_cuda
        with pytest.raises(RuntimeError, match="and the CPU"):
            x + torch.ones(2)
        with pytest.raises(RuntimeError, match="indices on"):
            torch.zeros(3)[torch.arange(2, device="cuda")]
        with pytest.raises((RuntimeError, TypeError)):
            x.numpy()
        x[1:, 0] = 2.0
        x[torch.tensor([0])] = torch.tensor([5.0, 6.0], device="cuda")
        assert x.cpu().tolist() == [[5.0, 6.0], [2.0, 0.0], [2.0, 0.0]]
        assert x[..., None].shape == (3, 2, 1) and x[[0, 1], 1].shape == (2,)
        assert type(x.cpu()) is not GPUTensor
    assert torch.zeros(2).device.type == "cpu"
