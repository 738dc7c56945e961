"""Video: the engine of the method, torchreid's own ones, both datasets in MARS's layout."""

import json
import math
import re
import shutil

import pytest
import torch

import torchreid_spectral as ts
from torchreid_spectral.data.datasets import synthetic_defaults
from torchreid_spectral.data.synthetic import SyntheticSpec
from torchreid_spectral.data.synthetic_video import SyntheticVideoSpec
from torchreid_spectral.engine import ImageSpectralEngine, VideoSpectralEngine
from torchreid_spectral.engine.stock import VideoSoftmaxReportingEngine
from torchreid_spectral.errors import InputError
from torchreid_spectral.layers import FramePooling
from torchreid_spectral.rerank import build_reranker

from ..tools.test_main import main

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
SPEC = SyntheticVideoSpec(
    num_train_ids=4, num_test_ids=4, num_cameras=3, tracklets_per_id=5, min_frames=2,
    max_frames=5, height=64, width=32,
)  # fmt: skip
NAME = "synthetic_pedestrians_video"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("video")


@pytest.fixture(scope="module")
def datamanager(torchreid, root):
    torchreid.utils.set_random_seed(1)
    with synthetic_defaults(SyntheticSpec(), SPEC):
        return torchreid.data.VideoDataManager(
            root=str(root), sources=NAME, height=64, width=32, batch_size_train=8,
            batch_size_test=4, workers=0, num_instances=4, seq_len=3, use_gpu=False,
            train_sampler="RandomIdentitySampler",
        )  # fmt: skip


def engine_of(torchreid, datamanager, **reporting):
    torch.manual_seed(0)
    model = ts.build_model(
        "spectral_osnet_x0_25", datamanager.num_train_pids, loss="spectral", pretrained=False,
        pooling_method="attention",
    )  # fmt: skip
    optimizer = torchreid.optim.build_optimizer(model, optim="adam", lr=0.001)
    return VideoSpectralEngine(
        datamanager, model, optimizer, use_gpu=False, progress=False, **reporting
    )


def test_run_returns_saves_reranks_and_draws(torchreid, datamanager, tmp_path):
    engine = engine_of(
        torchreid, datamanager, reranker=build_reranker("local_blurring", k=4), picture_queries=2
    )
    result = engine.run(
        str(tmp_path), 1, print_freq=1, dist_metric="cosine", rerank=True, visrank=False
    )
    assert list(result.datasets[NAME]) == ["none", "reranked"]
    saved = json.loads((tmp_path / "metrics.json").read_text())["metrics"][NAME]
    assert saved["none"]["queries"] == 12 and 0 < saved["none"]["mAP"] < 1
    assert (tmp_path / f"ranked_lists_{NAME}.png").exists()
    assert (tmp_path / "model" / "model.pth.tar-1").exists()


def test_step_is_the_image_engines_on_pooled_tracklets(torchreid, datamanager):
    """The loss of the tracklets' features equals that of the head on features pooled by hand."""
    engine = engine_of(torchreid, datamanager)
    engine.model.train()
    batch = next(iter(datamanager.train_loader))
    images, pids = engine.parse_data_for_train(batch)
    assert images.shape == (8, 3, 3, 64, 32) and pids.shape == (8,)
    state = {key: value.clone() for key, value in engine.model.state_dict().items()}
    loss, parts = engine.compute_losses(engine.model(images), pids)
    assert set(parts) == {"loss_id", "loss", "escape", "acc", "acc_walked"}
    engine.model.load_state_dict(state)
    with torch.no_grad():
        _, frames = engine.model(images.flatten(0, 1))
        engine.model.load_state_dict(state)
        nodes = FramePooling("attention")(frames.unflatten(0, (8, 3)))
        plain, walked = engine.network.heads[0](nodes)
        by_hand, _ = engine.criterion([plain], [walked], pids)
    assert math.isclose(float(loss), float(by_hand), rel_tol=1e-4)


def test_channels_last_changes_no_loss(torchreid, datamanager):
    from torchreid_spectral.engine.options import TrainingOptions

    data, found = next(iter(datamanager.train_loader)), []
    for options in (TrainingOptions(), TrainingOptions(channels_last=True)):
        engine = engine_of(torchreid, datamanager, options=options)
        engine.set_model_mode("train")
        found.append(engine.forward_backward(data)["loss"])
    assert found[1] == pytest.approx(found[0], rel=1e-3)


def test_training_lowers_the_loss_of_a_fixed_batch(torchreid, datamanager):
    engine = engine_of(torchreid, datamanager)
    engine.set_model_mode("train")
    batch = next(iter(datamanager.train_loader))
    losses = [engine.forward_backward(batch)["loss"] for _ in range(10)]
    assert losses[-1] < 0.7 * losses[0]


def test_stock_engine_pools_by_attention_in_the_test(torchreid, datamanager):
    model = ts.build_model("osnet_x0_25", 4, pretrained=False)
    optimizer = torchreid.optim.build_optimizer(model)
    engine = VideoSoftmaxReportingEngine(
        datamanager, model, optimizer, use_gpu=False, pooling_method="attention"
    )
    engine.set_model_mode("eval")
    batch = torch.rand(2, 3, 3, 64, 32)
    frames = model(batch.flatten(0, 1)).unflatten(0, (2, 3))
    torch.testing.assert_close(engine.extract_features(batch), FramePooling()(frames))


def test_refuses_images(torchreid, datamanager):
    engine = engine_of(torchreid, datamanager)
    with pytest.raises(InputError, match=r"must be \(B, F, 3, H, W\), got \(2, 3, 64, 32\)"):
        engine.extract_features(torch.rand(2, 3, 64, 32))
    images = type("Images", (), {"data_type": "image"})()
    with pytest.raises(InputError, match="got Images. Use ImageSpectralEngine"):
        VideoSpectralEngine(images, engine.model, engine.optimizer)
    assert issubclass(VideoSpectralEngine, ImageSpectralEngine)
    assert torchreid.engine.VideoSpectralEngine is VideoSpectralEngine


def options_of(root, folder, name):
    pairs = {
        "data.root": root, "data.sources": f"['{name}']", "data.targets": f"['{name}']",
        "data.height": 64, "data.width": 32, "data.workers": 0, "data.save_dir": folder,
        "model.name": "spectral_osnet_x0_25", "model.pretrained": False, "train.batch_size": 8,
        "train.max_epoch": 1, "video.seq_len": 2,
        "rerank.local_blurring.k": 4, "test.batch_size": 8,
        "report.ranked_lists": 2,
        **{f"synthetic_video.{key}": getattr(SPEC, key) for key in (
            "num_train_ids", "num_test_ids", "num_cameras", "tracklets_per_id", "min_frames",
            "max_frames", "height", "width")},
    }  # fmt: skip
    return [str(part) for pair in pairs.items() for part in pair]


@pytest.mark.parametrize("config", ["spectral_video_demo", "baseline_video_demo", "spectral_mars"])
def test_configs_train_on_both_datasets(torchreid, datamanager, root, tmp_path, capsys, config):
    """MARS's own reader on the drawn tree, its .mat lists included."""
    name = "mars" if config == "spectral_mars" else NAME
    if name == "mars" and not (root / "mars").exists():
        shutil.copytree(root / NAME, root / "mars")
    options = options_of(root, tmp_path, name)
    assert main(["--config-file", f"configs/{config}.yaml", *options]) == 0
    shown = capsys.readouterr().out
    assert re.search(rf"^{name} +local_blurring +[\d.]+", shown, re.MULTILINE)
    assert (tmp_path / f"ranked_lists_{name}.png").exists()


def test_visrank_of_a_spectral_model_on_video(torchreid, datamanager, root, tmp_path, capsys):
    options = options_of(root, tmp_path, NAME)
    assert main(["--config-file", "configs/spectral_video_demo.yaml", *options,
                 "test.visrank", "True", "test.evaluate", "True"]) == 0  # fmt: skip
    assert list((tmp_path / f"visrank_{NAME}").glob("*/gallery_top001_*"))


@pytest.mark.parametrize("loss", ["softmax", "triplet"])
def test_torchreids_losses_on_video(torchreid, datamanager, root, tmp_path, capsys, loss):
    options = options_of(root, tmp_path, NAME)
    assert (
        main(
            [
                "--config-file",
                "configs/baseline_video_demo.yaml",
                *options,
                "loss.name",
                loss,
                "model.name",
                "osnet_x0_25",
                "video.pooling_method",
                "attention",
                "test.visrank",
                "True",
                "test.evaluate",
                "True",
            ]
        )
        == 0
    )
    assert "mAP" in capsys.readouterr().out
    assert list((tmp_path / f"visrank_{NAME}").glob("*/gallery_top001_*"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["video.pooling_method", "attn"], "Did you mean attention"),
        (["video.sample_method", "even"], "Did you mean evenly"),
        (["video.sample_method", "all"], "make no batch"),
        (
            [
                "model.attention",
                "[{'after': 'conv4', 'over': 'frames'}]",
                "loss.name",
                "softmax",
                "train.chunk_size",
                "4",
            ],
            "hands single frames to the model",
        ),
        (["video.frame_temperature", "0.0"], "frame_temperature must be positive"),
        (["synthetic_video.num_cameras", "9"], "num_cameras must be 2 to 6, got 9"),
    ],
)
def test_wrong_options(torchreid, tmp_path, capsys, options, message):
    config = "configs/spectral_video_demo.yaml"
    assert main(["--config-file", config, "data.save_dir", str(tmp_path), *options]) == 2
    assert message in capsys.readouterr().err


def test_attention_between_frames_takes_the_length_that_it_is_given(torchreid):
    """Whole tracklets differ in length: none is cut, and none attends to another's frames."""
    torch.manual_seed(0)
    block = {"after": "conv4", "over": "frames", "frames": 2}
    model = ts.build_model("spectral_osnet_x0_25", 3, pretrained=False, attention=[block]).eval()
    images = torch.rand(2, 4, 3, 64, 32)
    for length in (4, 3, 1):
        alone = torch.cat([model(each[None]) for each in images[:, :length]])
        torch.testing.assert_close(model(images[:, :length]), alone, rtol=1e-4, atol=1e-4)
