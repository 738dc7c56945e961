"""Tests of torchreid_spectral.registry."""

import io
import logging

import numpy as np
import pytest
import torch

import torchreid_spectral as ts
from torchreid_spectral.errors import InputError, UnknownNameError
from torchreid_spectral.registry import model_defaults


def test_lists(torchreid):
    assert len(ts.list_models()) == 49
    assert "spectral_osnet_x0_25" in ts.list_models()
    assert {"am_softmax", "softmax", "triplet"} <= set(ts.list_losses())
    assert {"none", "local_blurring", "k_reciprocal"} <= set(ts.list_rerankers())


def test_unknown_model_names_the_nearest(torchreid):
    with pytest.raises(UnknownNameError, match="'spectral_resnet51'.*spectral_resnet50"):
        ts.build_model("spectral_resnet51", 3)


def test_unknown_option_and_options_of_plain_models(torchreid):
    with pytest.raises(UnknownNameError, match="'temprature'.*temperature"):
        ts.build_model("spectral_resnet18", 3, pretrained=False, temprature=0.2)
    with pytest.raises(InputError, match="takes no options"):
        ts.build_model("resnet18", 3, pretrained=False, temperature=0.2)


def test_plain_models_are_torchreids_own(torchreid):
    torch.manual_seed(0)
    ours = ts.build_model("osnet_x0_25", 3, pretrained=False)
    torch.manual_seed(0)
    theirs = torchreid.models.build_model("osnet_x0_25", 3, pretrained=False, use_gpu=False)
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value)


def test_active_defaults_reach_torchreids_build_model(torchreid):
    with model_defaults(temperature=0.5, bottleneck_dim=16):
        model = torchreid.models.build_model("spectral_resnet18", 3, pretrained=False)
        assert model.heads[0].walk.temperature == 0.5
        assert model.heads[0].prototypes.shape == (3, 16)
        own = ts.build_model("spectral_resnet18", 3, pretrained=False, temperature=0.2)
        assert own.heads[0].walk.temperature == 0.2
    model = torchreid.models.build_model("spectral_resnet18", 3, pretrained=False)
    assert model.heads[0].walk.temperature == 0.1
    with pytest.raises(UnknownNameError, match="'temperatur'"), model_defaults(temperatur=1):
        pass


def test_missing_extra_names_the_command():
    from torchreid_spectral.errors import require_extra

    with pytest.raises(InputError, match=r"pip install 'torchreid-spectral\[losses\]'"):
        require_extra("no_such_module_at_all", "losses", "The contrastive loss")


@pytest.mark.parametrize("cause", ["No module named 'its_own_need'", "numpy 2 is not supported"])
def test_a_broken_extra_is_not_said_to_be_missing(tmp_path, monkeypatch, cause):
    from torchreid_spectral.errors import require_extra

    kind = f"ModuleNotFoundError({cause!r}, name='its_own_need')" if "own" in cause else (
        f"ImportError({cause!r})")  # fmt: skip
    (tmp_path / "broken_extra.py").write_text(f"raise {kind}")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(InputError, match=f"cannot be imported .{cause}"):
        require_extra("broken_extra", "losses", "The contrastive loss")


def test_torchreids_builders_take_what_they_took_by_position(torchreid):
    """Scripts that were written for torchreid alone go on working."""
    import torch

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    schedule = torchreid.optim.build_lr_scheduler(optimizer, "cosine", 1, 0.1, 60)
    assert schedule.T_max == 60
    mean, std = [0.5] * 3, [0.25] * 3
    train, _ = torchreid.data.transforms.build_transforms(64, 32, ["random_flip"], mean, std)
    assert train.transforms[-1].mean == mean
    data = [(f"{n}.jpg", n // 4, n % 2, 0) for n in range(16)]
    sampler = torchreid.data.sampler.build_train_sampler(data, "RandomIdentitySampler", 4, 2, 1, 1)
    assert len(list(sampler)) >= 4
    sampler = torchreid.data.sampler.build_train_sampler(data, "RandomDomainSampler", 4, 2, 2, 1)
    assert sampler.n_domain == 2


def test_messages_go_where_the_user_logs(monkeypatch, capsys):
    """Though logging is set up after ``register()``."""
    from torchreid_spectral.registry import show_messages

    logger, root = logging.getLogger("torchreid_spectral"), logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(logger, "handlers", [])
    show_messages()
    logger.info("before")
    stream = io.StringIO()
    root.addHandler(logging.StreamHandler(stream))
    logger.info("after")
    assert capsys.readouterr().out == "before\n" and stream.getvalue() == "after\n"


def test_numbers_of_numpy_are_numbers(torchreid):
    options = {"heads": np.int64(2), "temperature": np.float32(0.25), "self_loops": np.bool_(True)}
    model = ts.build_model("spectral_osnet_x0_25", 5, pretrained=False, **options)
    assert (model.classifier.walk.heads, model.classifier.walk.temperature) == (2, 0.25)
