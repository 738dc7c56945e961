"""Tests of tools/main.py and of the launcher ``python -m torchreid_spectral``."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from torchreid_spectral.__main__ import main as launch
from torchreid_spectral.data.synthetic import SyntheticSpec
from torchreid_spectral.errors import InputError
from torchreid_spectral.inference import open_model
from torchreid_spectral.models.feature_weights import feature_digest

from ..conftest import TINY
from ..test_locks import HOLD

REPOSITORY = Path(__file__).parents[2]
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")


def load_tool(name):
    spec = importlib.util.spec_from_file_location(name, REPOSITORY / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


main = load_tool("main").main


def losses(text):
    return re.findall(r"loss (\d+\.\d+) ", text)


def test_spectral_run_end_to_end(torchreid, tiny_options, tmp_path, capsys):
    arguments = [
        "--config-file", "configs/spectral_demo.yaml", *tiny_options,
        "model.name", "spectral_osnet_x0_25", "data.save_dir", str(tmp_path),
        "rerank.local_blurring.k", "5",
    ]  # fmt: skip
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert "escape" in shown and "acc_walked" in shown
    assert re.search(r"synthetic_pedestrians +local_blurring +\d", shown)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert set(metrics["metrics"]["synthetic_pedestrians"]) == {"none", "local_blurring"}
    assert metrics["config"]["spectral"]["temperature"] == 0.1
    assert (tmp_path / "ranked_lists_synthetic_pedestrians.png").stat().st_size > 10_000
    assert len(list(tmp_path.glob("train.log-*"))) == 1
    checkpoint = tmp_path / "model" / "model.pth.tar-1"
    for file in (checkpoint, tmp_path / "checkpoints" / "last.safetensors"):
        assert feature_digest(open_model(file)[0]) == metrics["weights_sha256"]

    again = tmp_path / "again"
    options = ["model.load_weights", str(checkpoint), "test.evaluate", "True"]
    assert main([*arguments, "data.save_dir", str(again), *options, "test.visrank", "True"]) == 0
    repeated = json.loads((again / "metrics.json").read_text())
    for key in ("metrics", "weights_sha256"):
        assert repeated[key] == metrics[key]
    assert list((again / "visrank_synthetic_pedestrians").glob("*.jpg"))

    resumed = ["model.resume", str(checkpoint), "train.max_epoch", "2"]
    assert main([*arguments, *resumed]) == 0
    assert "epoch: [2/2]" in capsys.readouterr().out


@pytest.mark.parametrize("loss", ["softmax", "triplet"])
def test_baseline_equals_torchreids_own_flow(torchreid, tiny_options, tmp_path, capsys, loss):
    """The same losses, seed for seed, as the steps of torchreid's scripts/main.py."""
    from torchreid_spectral.data.datasets import synthetic_defaults

    options = [
        *tiny_options,
        "model.name",
        "osnet_x0_25",
        "loss.name",
        loss,
        "test.eval_freq",
        "5",
        "loss.triplet.weight_x",
        "1.0",
        "data.save_dir",
        str(tmp_path / "ours"),
    ]
    assert main(options) == 0
    ours = losses(capsys.readouterr().out.replace("loss_x", "loss").replace("loss_t", "loss"))
    torchreid.utils.set_random_seed(1)
    with synthetic_defaults(SyntheticSpec(**TINY)):
        data = torchreid.data.ImageDataManager(
            root=options[options.index("data.root") + 1],
            sources=["synthetic_pedestrians"],
            height=64,
            width=32,
            batch_size_train=16,
            batch_size_test=100,
            workers=0,
            num_instances=4,
            train_sampler="RandomIdentitySampler",
            use_gpu=False,
        )
    model = torchreid.models.build_model(
        "osnet_x0_25", data.num_train_pids, loss=loss, pretrained=False, use_gpu=False
    )
    torchreid.utils.compute_model_complexity(model, (1, 3, 64, 32))
    optimizer = torchreid.optim.build_optimizer(model, optim="adam", lr=0.0003, adam_beta2=0.999)
    scheduler = torchreid.optim.build_lr_scheduler(optimizer, stepsize=[20])
    kwargs = {"weight_t": 1.0, "weight_x": 1.0} if loss == "triplet" else {}
    engine = getattr(torchreid.engine, f"Image{loss.title()}Engine")(
        data, model, optimizer, scheduler=scheduler, use_gpu=False, **kwargs
    )
    engine.run(save_dir=str(tmp_path / "theirs"), max_epoch=1, print_freq=1)
    theirs = losses(capsys.readouterr().out.replace("loss_x", "loss").replace("loss_t", "loss"))
    assert len(ours) >= 2
    assert ours == theirs


def test_duke_layout(torchreid, data_root, tiny_options, tmp_path, capsys):
    """spectral_duke.yaml on a tree in DukeMTMC-reID's layout made of drawn pedestrians."""
    root = tmp_path / "root"
    tree = root / "dukemtmc-reid" / "DukeMTMC-reID"
    shutil.copytree(data_root / "synthetic_pedestrians", tree)
    options = dict(zip(tiny_options[::2], tiny_options[1::2]))
    for key in ("data.sources", "data.targets", "data.root"):
        options.pop(key)
    flat = [part for pair in options.items() for part in pair]
    assert (
        main(
            [
                "--config-file",
                "configs/spectral_duke.yaml",
                "--root",
                str(root),
                *flat,
                "model.name",
                "spectral_resnet18",
                "data.save_dir",
                str(tmp_path / "log"),
            ]
        )
        == 0
    )
    assert re.search(r"dukemtmcreid +local_blurring", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config-file", "nowhere.yaml"], "nowhere.yaml does not exist"),
        (["trian.lr", "1"], "Unknown config key 'trian.lr'. Did you mean train.lr"),
        (["model.name", "spectral_resnet51"], "Unknown model 'spectral_resnet51'"),
        (["loss.name", "softmaxx"], "Unknown loss.name 'softmaxx'. Did you mean softmax"),
        (["rerank.method", "local_blur"], "Did you mean local_blurring"),
        (["-s", "market1502"], "Unknown image dataset 'market1502'. Did you mean market1501"),
        (["synthetic.num_cameras", "9"], "num_cameras must be 2 to 6, got 9"),
        (["rerank.method", "local_blurring",
          "rerank.local_blurring.temperature", "-1.0"], "got -1.0"),
        (["loss.am_softmax.margin", "-1.0"], "margin must be >= 0, got -1.0"),
        (["loss.id", "arcfac"], "Unknown identity loss 'arcfac'. Did you mean arcface"),
        (["loss.metric", "triplett"], "Unknown metric loss 'triplett'. Did you mean triplet"),
        (["loss.weight", "-1.0", "loss.name", "spectral"], "weights must be >= 0"),
        (["train.optim", "sgdd"], "Unknown train.optim 'sgdd'. Did you mean sgd"),
        (["train.lr_scheduler", "cosin"], "Did you mean cosine"),
        (["sampler.train_sampler", "IdentityOnce"], "Did you mean IdentityOnceSampler"),
        (["--transforms", "random_flp"], "Unknown transform 'random_flp'. Did you mean random_fl"),
        (["test.rerank", "True", "rerank.method", "local_blurring"], "test.dist_metric cosine"),
        (["train.lr_scheduler", "single_step", "train.stepsize", "[0]"], ">= 1, got [0]"),
        (["-t", "folder", "folder.one_camera", "True", "test.rerank", "True", "test.dist_metric",
          "cosine", "rerank.camera_normalization", "center"], "cameras would be misled"),
        (["-t", "folder_video", "folder.one_camera", "True", "test.rerank", "True",
          "test.dist_metric", "cosine", "rerank.method", "graph_walk",
          "rerank.graph_walk.cross_camera", "0.5"], "rerank.graph_walk.cross_camera 1.0"),
        (["test.ranks", "[0, 5]"], "test.ranks must be whole numbers >= 1, got [0, 5]"),
        (["model.name", "spectral_osnet_x0_25", "model.attention", "[{'after': 'conv3'}]"],
         "model.attention takes entries such as"),
        (["model.name", "spectral_osnet_x0_25", "model.attention", "['conv3']"],
         "model.attention takes entries such as"),
    ],
)  # fmt: skip
def test_user_errors_exit_with_2_and_no_traceback(torchreid, capsys, tmp_path, arguments, message):
    assert main([*arguments, "--root", str(tmp_path)] if arguments[0] == "-s" else arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert "Traceback" not in captured.err


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("market1501", ["Market-1501-v15.09.15", "--root", "spectral_demo.yaml"]),
        ("dukemtmcreid", ["withdrew it in 2019", "download link is dead", "DukeMTMC-reID/"]),
        ("msmt17", ["MSMT17_V1", "release agreement"]),
        ("cuhk03", ["cuhk-03.mat"]),
    ],
)
@pytest.mark.parametrize("empty", [False, True])  # as a failed download leaves it
def test_missing_dataset(torchreid, capsys, tmp_path, name, words, empty):
    folders = {"dukemtmcreid": "dukemtmc-reid"}
    if empty:
        (tmp_path / folders.get(name, name)).mkdir()
    before = list(tmp_path.iterdir())
    assert main(["-s", name, "-t", name, "--root", str(tmp_path)]) == 2
    shown, said = capsys.readouterr()[::-1]
    assert "Building" not in said
    assert str(tmp_path) in shown
    for word in words:
        assert word in shown
    assert list(tmp_path.iterdir()) == before  # torchreid would leave an empty folder


def test_incomplete_dataset(torchreid, capsys, tmp_path):
    (tmp_path / "dukemtmc-reid" / "DukeMTMC-reID" / "query").mkdir(parents=True)
    status = main(
        [
            "-s",
            "dukemtmcreid",
            "-t",
            "dukemtmcreid",
            "--root",
            str(tmp_path),
            "data.save_dir",
            str(tmp_path / "log"),
        ]
    )
    assert status == 2
    shown = capsys.readouterr().err
    assert "bounding_box_train" in shown and "is not found" in shown


def test_missing_weights_stop_the_run(torchreid, capsys, tiny_options, tmp_path):
    options = [*tiny_options, "data.save_dir", str(tmp_path)]
    assert main([*options, "model.load_weights", "nowhere.pth"]) == 2
    assert "model.load_weights names a file that does not exist" in capsys.readouterr().err
    (tmp_path / "bad.pth").write_bytes(b"not a checkpoint")
    assert main([*options, "model.load_weights", str(tmp_path / "bad.pth")]) == 2
    assert "bad.pth is not a checkpoint" in capsys.readouterr().err
    torch.save({"foreign": torch.ones(1)}, tmp_path / "other.pth")
    assert main([*options, "model.load_weights", str(tmp_path / "other.pth")]) == 2
    assert "holds no weight of ResNet" in capsys.readouterr().err
    assert main([*options, "train.lr", "-1.0"]) == 2
    assert "Invalid learning rate" in capsys.readouterr().err


SCRIPT = """
import sys
import torchreid
from torchreid.utils import Logger, set_random_seed

set_random_seed(1)
data = torchreid.data.ImageDataManager(
    root=sys.argv[1], sources="synthetic_pedestrians", height=64, width=32, batch_size_train=16,
    workers=0, use_gpu=False,
)
model = torchreid.models.build_model(
    sys.argv[2], data.num_train_pids, loss="softmax", pretrained=False, use_gpu=False
)
optimizer = torchreid.optim.build_optimizer(model)
scheduler = torchreid.optim.build_lr_scheduler(optimizer, stepsize=20)
engine = torchreid.engine.ImageSoftmaxEngine(
    data, model, optimizer, scheduler=scheduler, use_gpu=False
)
engine.run(save_dir=sys.argv[3], max_epoch=1, print_freq=1)
"""


@pytest.mark.parametrize("layout", ["pypi", "github"])
def test_launcher_runs_an_unedited_script(python, data_root, tmp_path, layout):
    # The script knows no sizes: a tiny dataset in Market-1501's place.
    root = tmp_path / "root"
    tree = root / "market1501" / "Market-1501-v15.09.15"
    shutil.copytree(data_root / "synthetic_pedestrians", tree)
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.replace("synthetic_pedestrians", "market1501"))
    result = python(
        "-m",
        "torchreid_spectral",
        "--set",
        "temperature=0.2",
        script,
        root,
        "spectral_resnet18",
        tmp_path / "log",
        layout=layout,
    )
    assert "mAP:" in result.stdout and losses(result.stdout)


@pytest.mark.skipif("TORCHREID_CLONE" not in os.environ, reason="set TORCHREID_CLONE to a clone")
@pytest.mark.parametrize("layout", ["pypi", "github"])
def test_torchreids_own_main(python, data_root, tmp_path, layout):
    """Torchreid's scripts/main.py and a YAML of its own; with tools/main.py the same losses."""
    clone = Path(os.environ["TORCHREID_CLONE"])
    root = tmp_path / "root"
    tree = root / "market1501" / "Market-1501-v15.09.15"
    shutil.copytree(data_root / "synthetic_pedestrians", tree)
    options = ["--config-file", clone / "configs" / "im_osnet_x0_25_softmax_256x128_amsgrad.yaml",
               "--root", root, "model.pretrained", "False", "data.height", "64", "data.width",
               "32", "train.batch_size", "16", "train.max_epoch", "2", "train.print_freq", "1",
               "data.workers", "0", "train.fixbase_epoch", "1"]  # fmt: skip
    for name in ("osnet_x0_25", "spectral_resnet18"):
        run = [*options, "model.name", name, "data.save_dir", tmp_path / name]
        theirs = python(
            "-m", "torchreid_spectral", clone / "scripts" / "main.py", *run, layout=layout
        )
        ours = python("tools/main.py", *run, layout=layout)
        assert len(losses(theirs.stdout)) >= 2
        assert losses(ours.stdout) == losses(theirs.stdout)


def test_wrong_option_of_the_walk(torchreid, capsys, tiny_options, tmp_path):
    options = [*tiny_options, "model.name", "spectral_osnet_x0_25", "data.save_dir", str(tmp_path)]
    assert main([*options, "spectral.temperature", "-0.1"]) == 2
    assert "temperature must be positive, got -0.1" in capsys.readouterr().err


def test_launcher_errors(capsys, tmp_path):
    assert launch([str(tmp_path / "nowhere.py")]) == 2
    assert "There is no script" in capsys.readouterr().err
    script = tmp_path / "s.py"
    script.write_text("")
    assert launch(["--set", "temprature=1", str(script)]) == 2
    assert "'temprature'" in capsys.readouterr().err
    assert launch(["--set", "temperature", str(script)]) == 2
    assert "NAME=VALUE" in capsys.readouterr().err
    for given, words in {
        "detach_transition=false": "detach_transition takes True or False, got 'false'",
        "learn_temperature=no": "learn_temperature takes True or False, got 'no'",
        "temperature=nan": "temperature takes a number, got 'nan'",
        "temperature=True": "temperature takes a number, got True",
        "temperature=": "temperature takes a number, got ''",
        "top_k=2.5": "top_k takes int | None, got 2.5",
        "similarity=3": "similarity takes text, got 3",
    }.items():
        assert launch(["--set", given, str(script)]) == 2
        assert words in capsys.readouterr().err
    script.write_text(
        "import torchreid\n"
        "model = torchreid.models.build_model('spectral_osnet_x0_25', 4, pretrained=False)\n"
        "print('steps', model.classifier.walk.steps, 'top_k', model.classifier.walk.top_k)\n"
    )
    given = ["--set", "steps=inf", "--set", "restart=0.5", "--set", "top_k=0"]
    assert launch([*given, str(script)]) == 0
    assert "steps inf top_k None" in capsys.readouterr().out


AS_PYTHON_DOES = """
import atexit, os, pickle, sys, threading, time
from dataclasses import dataclass, fields

@dataclass
class Options:
    rate: float = 1.0

def late():
    assert type(pickle.loads(pickle.dumps(Options()))) is Options
    print("pickled")

def thread():
    time.sleep(0.2)
    late()

print([field.type for field in fields(Options)], sys.argv[1:])
same = late.__code__.co_filename == __file__
print(os.path.isabs(__file__), __package__ or None, __name__, same)
os.chdir("/")
open(__file__).close()
try:
    from . import losses
except ImportError as error:
    print(error)
atexit.register(late)
threading.Thread(target=thread).start()
"""


@pytest.mark.parametrize("args", [["a", "--set", "b"], ["--", "--opt", "1"], ["--"], []])
def test_launched_scripts_run_as_python_runs_them(python, tmp_path, args):
    (tmp_path / "script.py").write_text(AS_PYTHON_DOES)
    runs = [
        python(*launcher, tmp_path / "script.py", *args).stdout
        for launcher in ([], ["-m", "torchreid_spectral"])
    ]
    assert runs[0] == runs[1]
    assert runs[0].startswith(f"[<class 'float'>] {args}\nTrue None __main__ True\n")
    assert runs[0].count("pickled") == 2 and "no known parent package" in runs[0]


def test_what_a_launched_script_raises_is_not_caught(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from torchreid_spectral.errors import InputError\nraise InputError('mine')\n"
    )
    with pytest.raises(InputError, match="mine") as raised:
        launch([str(script)])
    assert raised.traceback[-1].path == script and raised.traceback[-1].lineno == 1


def test_an_epoch_without_a_batch_is_refused(torchreid, tiny_options, tmp_path, capsys):
    options = ["--config-file", "configs/spectral_demo.yaml", *tiny_options,
               "data.save_dir", str(tmp_path), "train.batch_size"]  # fmt: skip
    many = [*options, "4096", "sampler.train_sampler"]
    assert main([*many, "RandomSampler"]) == 2
    assert "none of train.batch_size 4096. Lower it" in capsys.readouterr().err
    assert not (tmp_path / "metrics.json").exists()
    assert main([*many, "RandomIdentitySampler"]) == 2
    assert "the training set has 8. Lower train.batch_size" in capsys.readouterr().err


def test_a_misspelt_new_layer_is_named(torchreid, tiny_options, tmp_path, capsys):
    options = ["--config-file", "configs/spectral_demo.yaml", *tiny_options,
               "data.save_dir", str(tmp_path), "train.staged_lr", "True"]  # fmt: skip
    assert main([*options, "train.new_layers", "['clasifier']"]) == 2
    assert "train.new_layers 'clasifier'. Did you mean classifier" in capsys.readouterr().err


def test_same_seed_same_result(torchreid, tiny_options, tmp_path):
    results = []
    for run in "ab":
        folder = tmp_path / run
        assert (
            main(
                [
                    "--config-file",
                    "configs/spectral_demo.yaml",
                    *tiny_options,
                    "data.save_dir",
                    str(folder),
                ]
            )
            == 0
        )
        results.append(torch.load(folder / "model" / "model.pth.tar-1")["state_dict"])
    assert all(torch.equal(value, results[1][key]) for key, value in results[0].items())


class Gone:
    """A console that has gone away."""

    def write(self, text):
        raise BrokenPipeError(32, "Broken pipe")

    def flush(self):
        raise OSError(5, "Input/output error")

    def isatty(self):
        return True


def test_a_console_that_goes_away_does_not_end_the_run(tmp_path, monkeypatch):
    tool = load_tool("main")
    monkeypatch.setattr(tool.sys, "stdout", Gone())
    with tool.tee(tmp_path / "log"):
        for line in ("one\n", "two\n"):
            tool.sys.stdout.write(line)
        assert not tool.sys.stdout.isatty()
    assert (tmp_path / "log").read_text() == (
        "one\nThe console is gone ([Errno 32] Broken pipe); this file goes on.\ntwo\n"
    )


def test_a_name_of_no_encoding_is_shown_in_the_log(tmp_path):
    tool = load_tool("main")
    for line in ("first", "1_0\udcff.jpg", "last"):  # a start in the same second adds to it
        with tool.tee(tmp_path / "log"):
            sys.stdout.write(line + "\n")
    assert (tmp_path / "log").read_text() == "first\n1_0\\udcff.jpg\nlast\n"


def test_a_folder_that_another_run_trains_in_is_refused(torchreid, tiny_options, tmp_path, capsys):
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "in\n"
        run = ["--config-file", "configs/spectral_demo.yaml", *tiny_options,
               "data.save_dir", str(tmp_path)]  # fmt: skip
        assert main(run) == 2
        assert "One run a folder: wait for it, or choose another data.save_dir" in (
            capsys.readouterr().err
        )
        # nothing of the other run's is touched
        assert {path.name[:9] for path in tmp_path.iterdir()} == {".in_use", "train.log"}
        other.communicate("x")
    assert main(run) == 0


def test_options_behind_a_list_of_names_are_options():
    parse = load_tool("main").parse
    args = parse(["-s", "market1501", "-t", "market1501", "dukemtmcreid", "train.max_epoch", "1",
                  "use_gpu", "False"])  # fmt: skip
    assert args.targets == ["market1501", "dukemtmcreid"] and args.sources == ["market1501"]
    assert args.opts == ["train.max_epoch", "1", "use_gpu", "False"]
    args = parse(
        ["--transforms", "random_flip", "data.height", "64", "--root", "x", "train.lr", "1"]
    )
    assert args.transforms == ["random_flip"] and args.root == "x"
    assert args.opts == ["data.height", "64", "train.lr", "1"]


def test_a_test_in_the_folder_of_a_training_leaves_its_metrics(
    torchreid, tiny_options, tmp_path, caplog
):
    from torchreid_spectral.report.comparison import load_run

    caplog.set_level("INFO")
    run = ["--config-file", "configs/spectral_demo.yaml", *tiny_options, "data.save_dir",
           str(tmp_path)]  # fmt: skip
    assert main(run) == 0
    trained = (tmp_path / "metrics.json").read_text()
    test = [*run, "test.evaluate", "True", "model.resume", "auto", "test.flip", "True"]
    for _ in range(2):  # the second does not take the first for a training
        assert main(test) == 0
        assert json.loads((tmp_path / "metrics.json").read_text())["config"]["test"]["flip"]
        assert (tmp_path / "metrics_training.json").read_text() == trained
    assert caplog.text.count("metrics of the training are kept in") == 1
    assert load_run(tmp_path).metrics == json.loads(trained)["metrics"]
    assert load_tool("compare").record_of(tmp_path) == json.loads(trained)
    assert main(run) == 0  # which is the last word again
    assert not (tmp_path / "metrics_training.json").exists()


def test_open_layers_that_are_none(torchreid, tiny_options, tmp_path, capsys):
    run = ["--config-file", "configs/spectral_demo.yaml", *tiny_options, "data.save_dir",
           str(tmp_path), "train.fixbase_epoch", "1", "train.open_layers", "[]"]  # fmt: skip
    assert main(run) == 2
    assert "trains train.open_layers alone, and these are none" in capsys.readouterr().err


def test_one_image_an_identity_is_told(torchreid, tiny_options, tmp_path, caplog):
    run = ["--config-file", "configs/spectral_demo.yaml", *tiny_options, "data.save_dir",
           str(tmp_path), "sampler.num_instances", "1", "train.batch_size", "8"]  # fmt: skip
    assert main(run) == 0
    assert "gives each identity of a batch one image" in caplog.text


def test_visrank_of_names_that_opencv_cannot_take(tmp_path, caplog):
    from types import SimpleNamespace

    from torchreid_spectral.engine import outcome

    images = [[("1_0\udcff.jpg", 1, 0)], [("1_1.jpg", 1, 1)]]
    answers = outcome.Answers("folder", images, {}, torch.zeros(1, 2))
    outcome.draw(SimpleNamespace(picture_queries=0), answers, str(tmp_path), 5)
    assert "test.visrank draws nothing of folder" in caplog.text
    assert not list(tmp_path.iterdir())


def test_more_stripes_than_rows_are_told(torchreid, tiny_options, tmp_path, caplog):
    run = ["--config-file", "configs/spectral_demo.yaml", *tiny_options, "data.save_dir",
           str(tmp_path), "train.max_epoch", "1"]  # fmt: skip
    assert main([*run, "spectral.stripes", "4"]) == 0
    assert "more than the" not in caplog.text
    assert main([*run, "spectral.stripes", "6"]) == 0
    assert "spectral.stripes 6 are more than the 4 rows of the last map at data.height 64" in (
        caplog.text
    )
