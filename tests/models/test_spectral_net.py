"""Tests of torchreid_spectral.models: heads, and every torchreid backbone with one."""

import copy
import pickle
import warnings

import pytest
import torch

import torchreid_spectral as ts
from torchreid_spectral import _compat
from torchreid_spectral.errors import InputError
from torchreid_spectral.functional import escape_probability
from torchreid_spectral.layers import SpectralAttention
from torchreid_spectral.models import SpectralHead, SpectralNet, make_spectral
from torchreid_spectral.models.spectral_net import check_open_layers

WALKS = {"hacnn": 2, "pcb_p4": 4, "pcb_p6": 6}
SIZES = {"hacnn": (160, 64), "mudeep": (256, 128), "nasnsetmobile": (128, 64)}
LARGE_STRIDE = {"inceptionv4", "inceptionresnetv2", "xception"}
FAMILIES = ["resnet18", "osnet_x0_25", "pcb_p4", "hacnn", "mlfn", "se_resnet50", "resnet50mid"]


def images(name: str, batch: int = 4) -> torch.Tensor:
    height, width = SIZES.get(name, (160, 96) if name in LARGE_STRIDE else (64, 32))
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(0))


def build(name, loss="softmax", **options):
    torch.manual_seed(0)
    return ts.build_model(f"spectral_{name}", 5, loss=loss, pretrained=False, **options)


def backbone_names():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return sorted(name.removeprefix("spectral_") for name in ts.list_models())


@pytest.mark.slow
@pytest.mark.parametrize("name", backbone_names())
def test_contract_of_every_model(torchreid, name):
    check_contract(name)


@pytest.mark.parametrize("name", FAMILIES)
def test_contract(torchreid, name):
    check_contract(name)


@pytest.mark.filterwarnings("ignore::UserWarning")  # torchreid's grid_sample and upsample
def check_contract(name):
    warnings.simplefilter("ignore")
    walks = WALKS.get(name, 1)
    model = build(name, "triplet")
    assert isinstance(model, SpectralNet)
    backbone = ts.build_model(name, 5, loss="triplet", pretrained=False)
    assert dict(backbone.named_children()).keys() <= dict(model.named_children()).keys()
    x = images(name)
    outputs, features = model(x)
    assert len(outputs) == 2 * walks == 2 * len(model.heads)
    assert all(output.shape == (4, 5) for output in outputs)
    torch.stack([output.square().sum() for output in outputs]).sum().backward()
    assert all(p.grad is not None for head in model.heads for p in head.parameters())
    model.contract = "softmax"
    assert isinstance(model(x), tuple)
    plain = _compat.model_factory()[name](
        num_classes=5, loss="softmax", pretrained=False, use_gpu=False
    )
    assert backbone_state(plain) == backbone_state(model)
    plain.load_state_dict(
        {k: v for k, v in model.state_dict().items() if not k.startswith("classifier")},
        strict=False,
    )
    if name not in {"resnet18", "mlfn"} and not hasattr(model, "layer4"):  # stride not changed
        torch.testing.assert_close(model.eval()(x), plain.eval()(x))


def backbone_state(model):
    return {
        name: value.shape
        for name, value in model.state_dict().items()
        if not name.startswith("classifier")
    }


def test_features_are_what_eval_gives(torchreid):
    model = build("osnet_x0_25", "triplet")
    for module in model.modules():  # so that training and eval normalise alike
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.momentum = 1.0
    x = images("osnet_x0_25", 8)
    _, features = model(x)
    assert features.shape == (8, 512)
    assert model.eval()(x).shape == (8, 512)


def test_outputs_are_scaled_cosines_of_x_and_walked_x(torchreid):
    head = SpectralHead(6, 3, bottleneck_dim=0, scale=4.0)
    x = torch.randn(5, 6, dtype=torch.float64)
    head.double()
    plain, walked = head(x)
    cosine = torch.nn.functional.cosine_similarity
    torch.testing.assert_close(plain, 4 * cosine(x[:, None], head.prototypes[None], dim=-1))
    moved = head.walk(x)
    assert not torch.allclose(moved, x)
    torch.testing.assert_close(walked, 4 * cosine(moved[:, None], head.prototypes[None], dim=-1))


def test_one_batch_norm_sees_both_branches():
    head = SpectralHead(6, 3, bottleneck_dim=4)
    norm = head.bottleneck[1]
    norm.momentum = 1.0
    x = torch.randn(8, 6)
    head(x)
    both = head.bottleneck[0](torch.cat([x, head.walk(x)]))
    torch.testing.assert_close(norm.running_mean, both.mean(0))


@pytest.mark.parametrize("options", [{}, {"neck": "bnneck"}, {"bottleneck_dim": 0}])
def test_the_walk_can_stand_after_the_bottleneck(torchreid, options):
    options = {"bottleneck_dim": 4} | options | {"walked_feature": "bottleneck"}
    model = build("resnet18", "spectral", heads=2, **options)
    (head,) = model.heads
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.eval()  # as it stands, so that embed gives the same twice
    (plain, walked), features = model(images("resnet18"))
    embedded = head.embed(features)
    torch.testing.assert_close(head.seen, embedded)
    for scores, nodes in ((plain, embedded), (walked, head.walk(embedded))):
        torch.testing.assert_close(scores.feature, nodes)
        torch.testing.assert_close(scores.feature_norm, nodes.norm(dim=1))
    assert not torch.allclose(walked.feature, embedded)
    head.gives_scores = False
    torch.testing.assert_close(head.eval()(features), head.classify(embedded))


@pytest.mark.parametrize("options", [{}, {"neck": "bnneck"}, {"bottleneck_dim": 0}])
def test_a_memory_is_as_wide_as_what_is_walked(torchreid, options):
    options = {"bottleneck_dim": 4} | options | {"walked_feature": "bottleneck"}
    model = build("resnet18", "spectral", memory=6, **options)
    (plain, walked), _ = model(images("resnet18"))
    (head,) = model.heads
    assert walked.feature.shape == plain.feature.shape == head.seen.shape
    assert not torch.equal(head.seen, torch.zeros_like(head.seen))
    model(images("resnet18"))  # the second batch walks with the first one's nodes


@pytest.mark.parametrize(
    ("supervision", "count"), [("both", 2), ("plain_twice", 2), ("plain", 1), ("walked", 1)]
)
def test_supervision(supervision, count):
    head = SpectralHead(6, 3, supervision=supervision, walk=SpectralAttention(temperature=0.5))
    x = torch.randn(8, 6)
    outputs = head(x)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    assert len(outputs) == count
    if supervision == "plain_twice":
        torch.testing.assert_close(outputs[0], outputs[1])
    assert isinstance(head.eval()(x), torch.Tensor)


def test_spectral_contract_gives_scores(torchreid):
    model = build("resnet18", "spectral")
    (plain, walked), features = model(images("resnet18"))
    assert features.shape == (4, 512)
    head = model.heads[0]
    for scores, nodes in ((plain, features), (walked, head.walk(features))):
        assert scores.cosine.abs().max() <= 1
        torch.testing.assert_close(scores.feature, nodes)
        weights = head.prototypes.norm(dim=1)
        torch.testing.assert_close(scores.length, scores.feature_norm[:, None] * weights)
    only = build("resnet18", "spectral", supervision="plain")(images("resnet18"))[0]
    assert len(only) == 1 and only[0].cosine.shape == (4, 5)
    assert build("resnet18").heads[0].scale == 15


def test_bottleneck_as_test_feature(torchreid):
    model = build("resnet18", test_feature="bottleneck", bottleneck_dim=7).eval()
    assert model(images("resnet18")).shape == (4, 7)
    with pytest.raises(ValueError, match="does not fit PCB"):
        build("pcb_p4", test_feature="bottleneck")


@pytest.mark.parametrize(("last_stride", "height"), [(1, 8), (2, 4), (None, 4)])
def test_last_stride(torchreid, last_stride, height):
    model = build("resnet50", last_stride=last_stride).eval()
    maps = model.featuremaps(torch.rand(1, 3, 128, 64))
    assert maps.shape[2] == height


@pytest.mark.parametrize("name", ["resnet50", "resnet50_fc512", "resnet18", "se_resnet50"])
def test_last_stride_both_ways(torchreid, name):
    """Some of torchreid's models have stride 1 there by themselves."""
    for stride, height in ((1, 8), (2, 4)):
        model = build(name, last_stride=stride).eval()
        with torch.no_grad():
            assert model.featuremaps(torch.rand(1, 3, 128, 64)).shape[2] == height


def test_feature_maps_of_osnet(torchreid):
    model = build("osnet_x0_25", test_feature="bottleneck").eval()
    assert model(images("osnet_x0_25"), return_featuremaps=True).dim() == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"supervision": "some"}, "supervision must be one of"),
        ({"activation": "gelu"}, "activation must be one of"),
        ({"scale": 0.0}, "scale must be positive, got 0.0"),
        ({"bottleneck_dim": -1}, "bottleneck_dim must be >= 0, got -1"),
        ({"last_stride": 3}, "last_stride must be 1 or 2, got 3"),
        ({"test_feature": "x"}, "test_feature must be one of"),
        ({"walked_feature": "x"}, "walked_feature must be one of"),
        ({"temperature": 0.0}, "temperature must be positive, got 0.0"),
    ],
)
def test_wrong_options(torchreid, options, message):
    with pytest.raises(ValueError, match=message):
        build("resnet18", **options)


def test_unknown_loss(torchreid):
    with pytest.raises(ValueError, match="softmax, triplet or spectral, got 'focal'"):
        build("resnet18", "focal")


def test_backbones_that_keep_their_features_are_refused(torchreid):
    backbone = torchreid.models.build_model("osnet_x0_25", 5, pretrained=False)
    with pytest.raises(ValueError, match="got one with loss='softmax'"):
        make_spectral(backbone)


def test_a_copy_of_a_compiled_model_has_its_own_weights(torchreid):
    model, x = build("osnet_x0_25").eval(), images("osnet_x0_25")
    model.compile(backend="eager")
    expected = model(x)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        torch.testing.assert_close(other(x), expected)
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.mul_(1.5)
        assert not torch.allclose(other(x), expected)
    torch.testing.assert_close(model(x), expected)


def test_copies_and_pickles(torchreid):
    model = build("osnet_x0_25").eval()
    x = images("osnet_x0_25")
    torch.testing.assert_close(copy.deepcopy(model)(x), model(x))
    again = pickle.loads(pickle.dumps(model))
    assert type(again) is type(model)
    torch.testing.assert_close(again(x), model(x))
    fresh = build("osnet_x0_25")
    fresh.load_state_dict(model.state_dict())
    torch.testing.assert_close(fresh.eval()(x), model(x))


@pytest.mark.parametrize("name", ["osnet_x0_25", "resnet18", "hacnn"])
def test_weights_move_between_baseline_and_spectral(torchreid, tmp_path, name):
    plain = ts.build_model(name, 9, pretrained=False)
    model = build(name)
    for source, target in ((plain, model), (model, plain)):
        for parameter in source.parameters():
            torch.nn.init.normal_(parameter)
        path = tmp_path / "weights.pth"
        torch.save(source.state_dict(), path)
        torchreid.utils.load_pretrained_weights(target, str(path))
        for key in backbone_state(source):
            torch.testing.assert_close(target.state_dict()[key], source.state_dict()[key])


def test_open_layers_and_staged_rates_find_the_classifier(torchreid):
    model = build("resnet18")
    torchreid.utils.open_specified_layers(model, ["classifier"])
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {name for name, _ in model.named_parameters() if name.startswith("classi")}
    optimizer = torchreid.optim.build_optimizer(
        model, optim="sgd", lr=1.0, staged_lr=True, new_layers=["classifier"], base_lr_mult=0.1
    )
    base, new = optimizer.param_groups
    assert (base["lr"], new["lr"]) == (0.1, 1.0)
    assert len(new["params"]) == len(list(model.classifier.parameters()))


def test_a_model_for_a_gpu_is_built_on_the_cpu(torchreid):
    """HACNN makes constants in its forward, which building runs before the weights are moved."""
    model = ts.build_model("spectral_hacnn", 5, pretrained=False, use_gpu=True)
    assert model.use_gpu is True
    assert ts.build_model("spectral_hacnn", 5, pretrained=False).use_gpu is False


@pytest.mark.parametrize("branch", [0, 1])
def test_both_branches_train_the_backbone(branch):
    """Supervision of X and of X' alike reaches the features that go into the head."""
    torch.manual_seed(0)
    head = SpectralHead(6, 3, bottleneck_dim=0).double()
    x = torch.randn(5, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: head(x)[branch], x)


def test_hacnn_keeps_the_names_of_its_classifiers(torchreid):
    """So that its layers can be opened, and learn faster, under the names torchreid has."""
    model = build("hacnn")
    names = ["classifier_global", "classifier_local"]
    torchreid.utils.open_specified_layers(model, names)
    trained = {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad}
    assert trained == set(names)
    optimizer = torchreid.optim.build_optimizer(model, staged_lr=True, new_layers=names)
    sizes = [len(group["params"]) for group in optimizer.param_groups]
    assert sizes[1] == sum(len(list(head.parameters())) for head in model.heads)
    with pytest.raises(InputError, match="leaves the classifier_local of a spectral"):
        check_open_layers(model, names[:1])


def test_feature_maps_in_training(torchreid):
    model, x = build("osnet_x0_25").train(), images("osnet_x0_25", 2)
    assert model(x, return_featuremaps=True).shape[0] == 2


@pytest.mark.parametrize("options", [
    {"similarity": "dot"}, {"similarity": "scaled_dot"}, {"temperature": 0.002},
])  # fmt: skip
def test_escape_does_not_drown_in_self_loops(options):
    """Beside a node's own weight those of all others may be nothing in float32."""
    x = 3 * torch.randn(8, 64, generator=torch.Generator().manual_seed(0)).relu()
    y = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])
    head = SpectralHead(64, 4, walk=SpectralAttention(**options)).train()
    head(x)
    exact = SpectralAttention(self_loops=False, **options).double().transition(x.double())
    expected = escape_probability(exact, y)
    assert float(expected) > 0.5
    assert float(head.escape(y)) == pytest.approx(float(expected), abs=1e-4)


def test_escape_of_one_image():
    head = SpectralHead(4, 2, walk=SpectralAttention()).train()
    head(torch.randn(1, 4))
    assert float(head.escape(torch.tensor([0]))) == 0
