"""Tests of benchmarks/market1501_rested.py."""

import numpy as np
import pytest
import torch
from torch import nn

from tests.test_benchmarks_market1501 import ROOT, load

COMMAND = ["long", "--only", "long_walk", "--weights", "osnet_x0_25_msmt17.pth"]


@pytest.fixture
def module(monkeypatch, torchreid):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return load(ROOT / "benchmarks" / "market1501_rested.py")


class Pictures(torch.utils.data.Dataset):
    """Four pictures that are other ones each time."""

    mode = "train"
    data = tuple((f"{n}.jpg", n // 2, n % 2, 0) for n in range(4))

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return {"img": torch.full((3, 8, 4), index + torch.rand(()))}


class Doubled(nn.Module):
    def forward(self, x):
        return torch.cat([x, x], 1)


def test_the_network_reads_images_and_what_left_its_first_layers(module):
    import torchreid_spectral as ts

    torch.manual_seed(0)
    model = ts.build_model("spectral_osnet_x0_25", 4, pretrained=False).eval()
    before = [*model.state_dict()]
    pictures = torch.rand(2, 3, 256, 128)
    with torch.inference_mode():
        expected = model(pictures)
        left = nn.Sequential(*(getattr(model, name) for name in module.TRUNK))(pictures)
        module.pass_by(model)
        assert left.shape == (2, module.WIDTH, 32, 16)
        assert torch.equal(model(left), expected)
        assert torch.equal(model(pictures), expected)
    assert [*model.state_dict()] == before


def test_views_are_stored_once_and_as_bfloat16(module, tmp_path):
    files = module.views(tmp_path / "views", 2, Pictures(), Doubled())
    first = [torch.from_numpy(np.load(file)).view(torch.bfloat16) for file in files]
    assert first[0].shape == (4, 6, 8, 4)
    assert first[0][:, 0, 0, 0].floor().tolist() == [0, 1, 2, 3]
    assert not torch.equal(first[0], first[1])  # augmented anew
    stamps = [file.stat().st_mtime_ns for file in files]
    again = module.views(tmp_path / "views", 3, Pictures(), Doubled())
    assert [file.stat().st_mtime_ns for file in again[:2]] == stamps
    assert sorted(path.name for path in (tmp_path / "views").iterdir()) == [
        "00.npy", "01.npy", "02.npy",
    ]  # fmt: skip


def test_one_of_the_views_is_drawn(module, tmp_path):
    files = module.views(tmp_path, 2, Pictures(), nn.Identity())
    images = module.Views(Pictures(), *files)
    torch.manual_seed(0)
    drawn = [images[3] for _ in range(32)]
    stored = [float(torch.from_numpy(np.load(file)).view(torch.bfloat16)[3].float().mean())
              for file in files]  # fmt: skip
    assert {float(item["img"].float().mean()) for item in drawn} == {*stored}
    assert (drawn[0]["impath"], drawn[0]["pid"], drawn[0]["camid"]) == ("3.jpg", 1, 1)


def test_the_first_layers_rest_in_all_epochs(module):
    args = module.parse([*COMMAND, "--epochs", "30"])
    cfg = module.configured(args, "long_walk", 2)
    assert cfg.train.fixbase_epoch == cfg.train.max_epoch == 30
    assert not set(module.TRUNK) & set(cfg.train.open_layers)
    assert (cfg.data.height, cfg.train.seed, cfg.train.amp) == (256, 2, "bf16")


def test_views_are_of_their_transforms_and_weights(module):
    args = module.parse(COMMAND)
    cfg = module.configured(args, "long_walk", 1)
    other = cfg.clone()
    other.data.transforms = ["random_flip"]
    names = {module.folder_of_views(cfg), module.folder_of_views(other)}
    other.model.load_weights = "others.pth"
    assert len(names | {module.folder_of_views(other)}) == 3
    assert module.folder_of_views(cfg) == module.folder_of_views(cfg.clone())


def test_a_training_needs_an_epoch_and_a_view(module, capsys):
    for option in ("--epochs", "--views"):
        with pytest.raises(SystemExit):
            module.parse([*COMMAND, option, "0"])
        assert f"{option} must be >= 1, got 0" in capsys.readouterr().err


def test_what_is_in_the_file_is_not_trained_again(module, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(module, "train", lambda *task: pytest.fail("trained"))
    monkeypatch.setattr(module.whole, "read_rows", lambda path: {"long_walk/seed_1": {}})
    assert module.main([*COMMAND, "--out", str(tmp_path)]) == 0
    assert "long_walk/seed_1 is in" in capsys.readouterr().out


def test_a_finished_training_becomes_a_row(module, tmp_path, monkeypatch):
    trained = []
    row = {"commit": "1234", "threads": 2, "metrics": {}}

    def train(args, name, seed):
        trained.append((name, seed))
        folder = args.out / name / f"seed_{seed}"
        folder.mkdir(parents=True)
        (folder / "metrics.json").write_text("{}")

    monkeypatch.setattr(module, "train", train)
    monkeypatch.setattr(module, "measure", lambda folder, root, transfer, **how: dict(row))
    for _ in range(2):
        module.main([*COMMAND, "--out", str(tmp_path), "--views", "3"])
    assert trained == [("long_walk", 1)]
    rows = module.whole.read_rows(tmp_path / "market1501_rested.json")
    assert rows["long_walk/seed_1"] == row | {"views": 3}


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
def test_a_training_of_views_goes_on_and_is_tested_on_images(
    module, tiny_options, tmp_path, monkeypatch
):
    from torchreid_spectral.config import get_default_config, merge_options
    from torchreid_spectral.inference import SpectralReID

    folder = tmp_path / "long_walk" / "seed_1"

    def configured(args, name, seed):
        cfg = get_default_config()
        merge_options(cfg, ["model.name", "spectral_osnet_x0_25", *tiny_options,
                            "loss.name", "spectral", "data.save_dir", str(folder),
                            "use_gpu", "False", "train.amp", "bf16",
                            "train.max_epoch", str(args.epochs), "model.resume", "auto",
                            "train.fixbase_epoch", str(args.epochs), "train.open_layers",
                            "[conv3,conv4,conv5,fc,classifier]"])  # fmt: skip
        return cfg

    monkeypatch.setattr(module, "configured", configured)
    opened = []
    monkeypatch.setattr(module.Views, "__getitem__", lambda self, index, get=(
        module.Views.__getitem__): opened.append(index) or get(self, index))  # fmt: skip
    command = [*COMMAND, "--views", "2", "--out", str(tmp_path)]
    module.train(module.parse([*command, "--epochs", "1"]), "long_walk", 1)
    steps = len(opened)
    first = SpectralReID(folder).model.state_dict()
    module.train(module.parse([*command, "--epochs", "2"]), "long_walk", 1)
    assert len(opened) == 2 * steps > 0  # it went on
    second = SpectralReID(folder).model.state_dict()
    moved = {name for name in first if not torch.equal(first[name], second[name])}
    assert any(name.startswith("conv3") for name in moved)
    assert not any(name.startswith(module.TRUNK) for name in moved)
    assert (folder / "metrics.json").is_file()
