"""Tests of torchreid_spectral.engine.distillation: the teacher, and training beside it."""

import copy

import pytest
import torch

import torchreid_spectral as ts
from tests.engine.test_base import datamanager, parts  # noqa: F401 (a fixture)
from torchreid_spectral.engine import Distillation, ImageSpectralEngine, load_teacher
from torchreid_spectral.errors import InputError
from torchreid_spectral.losses import DarkRankLoss

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")


@pytest.fixture
def checkpoint(torchreid, tmp_path):
    """Save random weights of a model as torchreid does, and give its path."""

    def save(name="osnet_x0_25", **options):
        torch.manual_seed(0)
        model = ts.build_model(name, 7, pretrained=False, **options)
        path = tmp_path / f"{name}.pth.tar"
        torch.save({"state_dict": model.state_dict(), "epoch": 1, "rank1": 0.5}, path)
        return path, model.eval()

    return save


@pytest.mark.parametrize("name", ["osnet_x0_25", "spectral_osnet_x0_25", "resnet18"])
def test_any_model_teaches_with_the_features_of_its_eval_mode(checkpoint, name):
    path, model = checkpoint(name)
    teacher = load_teacher(name, path)
    assert not teacher.training
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    images = torch.rand(3, 3, 64, 32)
    features = Distillation(teacher).features(images)
    torch.testing.assert_close(features, model(images))
    assert not features.requires_grad


def test_a_teacher_that_flattens_maps_looks_at_any_layout(torchreid):
    torch.manual_seed(0)
    taught = Distillation(ts.build_model("pcb_p4", 4, pretrained=False))
    images = torch.rand(2, 3, 96, 48)
    found = taught.features(images.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(found, taught.features(images))


def test_a_teacher_with_a_bottleneck_needs_its_weights(checkpoint):
    options = {"test_feature": "bottleneck", "bottleneck_dim": 8}
    path, model = checkpoint("spectral_osnet_x0_25", **options)
    images = torch.rand(2, 3, 64, 32)
    with ts.registry.model_defaults(**options):
        teacher = load_teacher("spectral_osnet_x0_25", path)
    torch.testing.assert_close(teacher(images), model(images))
    with (
        ts.registry.model_defaults(test_feature="bottleneck", bottleneck_dim=9),
        pytest.raises(InputError, match=rf"{path} does not fit distill.teacher.*classifier"),
    ):
        load_teacher("spectral_osnet_x0_25", path)


def test_every_error_names_the_file(checkpoint, tmp_path):
    path, _ = checkpoint()
    for name, file, message in (
        ("osnet_x0_25", tmp_path / "nowhere.pth", "does not exist: .*nowhere.pth"),
        ("resnet18", path, f"{path} does not fit distill.teacher resnet18: .*conv1.weight"),
        ("osnet_x0_5", path, f"{path} does not fit distill.teacher osnet_x0_5"),
    ):
        with pytest.raises(InputError, match=message):
            load_teacher(name, file)
    truncated = tmp_path / "cut.pth"
    truncated.write_bytes(path.read_bytes()[:500])
    with pytest.raises(InputError, match="cut.pth is not a checkpoint that can be loaded safely"):
        load_teacher("osnet_x0_25", truncated)
    foreign = tmp_path / "foreign.pth"
    torch.save([1, 2], foreign)
    with pytest.raises(InputError, match="foreign.pth holds no weights"):
        load_teacher("osnet_x0_25", foreign)


class Harmful:
    """Pickled, it would run a function when loaded."""

    def __reduce__(self):
        return (print, ("loaded",))


def test_a_harmful_checkpoint_runs_nothing(tmp_path, capsys):
    path = tmp_path / "harmful.pth"
    torch.save({"state_dict": {}, "extra": Harmful()}, path)
    with pytest.raises(InputError, match=r"harmful.pth .*weights only"):
        load_teacher("osnet_x0_25", path)
    assert "loaded" not in capsys.readouterr().out


@pytest.mark.parametrize("student", ["spectral_osnet_x0_25", "spectral_pcb_p4", "spectral_hacnn"])
def test_a_student_learns_and_the_teacher_stays(
    torchreid,
    checkpoint,
    datamanager,  # noqa: F811
    student,
):
    path, _ = checkpoint()
    teacher = load_teacher("osnet_x0_25", path)
    before = copy.deepcopy(teacher.state_dict())
    model, optimizer, scheduler = parts(torchreid, datamanager, student, "spectral")
    engine = ImageSpectralEngine(
        datamanager, model, optimizer, scheduler, use_gpu=False, progress=False,
        distillation=Distillation(teacher, DarkRankLoss("hard"), weight=0.5),
    )  # fmt: skip
    engine.set_model_mode("train")
    batch = next(iter(datamanager.train_loader))
    if "hacnn" in student:
        batch = {**batch, "img": torch.nn.functional.interpolate(batch["img"], (160, 64))}
    summary = engine.forward_backward(batch)
    expected = summary["loss_id"] + 0.5 * summary["loss_distill"]
    assert summary["loss"] == pytest.approx(expected, rel=1e-4)
    assert summary["loss_distill"] > 0
    assert not teacher.training
    assert all(torch.equal(value, before[key]) for key, value in teacher.state_dict().items())


def test_a_student_that_is_its_teacher_has_nothing_more_to_learn(checkpoint):
    path, model = checkpoint()
    distillation = Distillation(load_teacher("osnet_x0_25", path), DarkRankLoss("soft"))
    images = torch.rand(6, 3, 64, 32)
    features = model(images).detach().requires_grad_()
    distillation.loss(features, distillation.features(images)).backward()
    assert features.grad.abs().max() < 1e-4


def test_rejects_a_negative_weight(checkpoint):
    _, model = checkpoint()
    with pytest.raises(InputError, match="distill.weight must be >= 0, got -1"):
        Distillation(model, weight=-1)
