"""Tests of tools/rerank.py: the command on small feature files."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from torchreid_spectral.evaluation import evaluate_rank, tpr_at_fpr
from torchreid_spectral.inference import Gallery
from torchreid_spectral.rerank import RERANKERS, build_reranker

from .test_main import load_tool

rerank = load_tool("rerank")
WIDTH = 8


def draw(seed: int, count: int) -> dict[str, np.ndarray]:
    """Features in clusters, one an identity, seen by three cameras."""
    rng = np.random.default_rng(seed)
    pids, camids = np.arange(count) % 6, rng.integers(0, 3, count)
    centers = np.random.default_rng(99).normal(size=(6, WIDTH))
    features = centers[pids] + 0.9 * rng.normal(size=(count, WIDTH))
    return {"features": features.astype(np.float32), "pids": pids, "camids": camids}


QUERY, GALLERY = draw(0, 12), draw(1, 40)


@pytest.fixture()
def files(tmp_path: Path) -> dict[str, str]:
    for name, content in (("q", QUERY), ("g", GALLERY)):
        np.savez(tmp_path / f"{name}.npz", **content)
    return {"--query": str(tmp_path / "q.npz"), "--gallery": str(tmp_path / "g.npz")}


def run(files: dict[str, str], *more: Any) -> int:
    return rerank.main([*(part for pair in files.items() for part in pair), *map(str, more)])


def refused(capsys: Any, files: dict[str, str], *more: Any) -> str:
    assert run(files, *more) == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return said[said.index("error: ") :]


def changed(files: dict[str, str], name: str, **content: Any) -> None:
    """Write a file anew with other arrays; those that are None are left out."""
    whole = {"--query": QUERY, "--gallery": GALLERY}[name] | content
    np.savez(files[name], **{key: each for key, each in whole.items() if each is not None})


@pytest.mark.parametrize("inductive", [False, True])
@pytest.mark.parametrize("method", sorted(RERANKERS))
def test_output_is_the_librarys(files, tmp_path, method, inductive, capsys):
    flags = ["--inductive"] * inductive
    output, text = tmp_path / "new" / "ranks.npz", tmp_path / "metrics.json"
    given = ["--method", method, "--top-k", 9, "--output", output, "--json", text]
    assert run(files, *given, *flags) == 0
    library = build_reranker(method).fit(GALLERY["features"], GALLERY["camids"])
    options = {"camids": QUERY["camids"], "inductive": inductive}
    indices, distances = library.rank(QUERY["features"], 9, **options)
    with np.load(output) as found:
        assert sorted(found.files) == ["distances", "indices"]
        np.testing.assert_array_equal(found["indices"], indices)
        np.testing.assert_array_equal(found["distances"], distances)

    matrix = library.distance_matrix(QUERY["features"], **options)
    ids = [QUERY["pids"], GALLERY["pids"], QUERY["camids"], GALLERY["camids"]]
    cmc, precision = evaluate_rank(matrix, *ids)
    metrics = json.loads(text.read_text())
    assert metrics["method"] == method
    assert metrics["mAP"] == pytest.approx(precision, abs=1e-12)
    for k in (1, 5, 10, 20):
        assert metrics[f"rank-{k}"] == pytest.approx(cmc[k - 1], abs=1e-7)
    rates = tpr_at_fpr([(slice(0, 12), matrix)], *ids)
    for fpr, rate in rates.items():
        assert metrics[f"TPR@FPR={fpr:g}"] == rate
    assert 0 < metrics["mINP"] <= metrics["mAP"]
    assert metrics["mAP_trapezoidal"] <= 1
    assert (metrics["queries"], metrics["valid_queries"]) == (12, 12)
    assert metrics["seconds_fit"] >= 0 and metrics["seconds_rank"] > 0
    assert 0.01 < metrics["peak_GB"] < 100
    out = capsys.readouterr().out
    assert out.split()[0] == "method" and f"{100 * precision:7.2f}" in out


def test_options_reach_the_method(files, tmp_path):
    output = tmp_path / "ranks.npz"
    options = {"k": 5, "temperature": 0.7, "walked": "features", "steps": 2, "chunk_size": 3}
    given = [f"{name}={value}" for name, value in options.items()]
    assert run(files, *given, "--top-k", 100, "--output", output) == 0
    library = build_reranker("graph_walk", **options).fit(GALLERY["features"])
    with np.load(output) as found:
        np.testing.assert_array_equal(found["indices"], library.rank(QUERY["features"], 100)[0])
        assert found["indices"].shape == (12, 40)


@pytest.mark.parametrize("value", [True, False])
def test_options_that_are_true_or_false(files, tmp_path, value):
    output = tmp_path / "ranks.npz"
    given = ["--method", "k_reciprocal", f"square_distances={value}", "--output", output]
    assert run(files, *given) == 0
    library = build_reranker("k_reciprocal", square_distances=value).fit(GALLERY["features"])
    with np.load(output) as found:
        np.testing.assert_array_equal(found["distances"], library.rank(QUERY["features"], 100)[1])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["k"], "Options of a method are NAME=VALUE, got 'k'"),
        (["kk=3"], "Re-ranker graph_walk has no option 'kk'; it has"),
        (["=3"], "has no option ''"),
        (["k=many"], "Option k of graph_walk must be int, got 'many'"),
        (["k=0"], "k must be >= 1, got 0"),
        (["k=nan"], "Option k of graph_walk must be int, got nan"),
        (["temperature=0"], "temperature must be positive"),
        (["walked=feature"], "Did you mean features"),
        (["search=exat"], "Unknown search 'exat'. Did you mean exact"),
        (["--top-k", "0"], "top_k must be >= 1, got 0"),
        (["--top-k", "-5"], "top_k must be >= 1, got -5"),
        (["--device", "cuba"], "--device cuba cannot be used"),
        (["--compare", "k=3"], "--compare takes the defaults of all methods"),
        (["--compare", "--output", "x.npz"], "--compare takes the defaults of all methods"),
    ],
)
def test_refuses_options(files, tmp_path, monkeypatch, capsys, given, message):
    monkeypatch.chdir(tmp_path)
    assert message in refused(capsys, files, "--json", tmp_path / "metrics.json", *given)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["g.npz", "q.npz"]


@pytest.mark.parametrize(
    "given",
    [["--method", "graph_wal"], ["--search", "faiss"], ["--top-k", "x"], ["--metod", "none"]],
)
def test_wrong_command_line(files, capsys, given):
    with pytest.raises(SystemExit, match="2"):
        run(files, *given)
    assert "usage:" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["--query", "--gallery"])
def test_files_are_required(files, capsys, name):
    del files[name]
    with pytest.raises(SystemExit, match="2"):
        run(files)
    assert name in capsys.readouterr().err


@pytest.mark.skipif(find_spec("faiss") is None, reason="faiss is not installed")
@pytest.mark.parametrize("method", ["none", "graph_walk"])
def test_faiss_flat(files, tmp_path, method):
    found = []
    for search in ("exact", "faiss_flat"):
        output, text = tmp_path / f"{search}.npz", tmp_path / f"{search}.json"
        given = ["--method", method, "--search", search, "--output", output, "--json", text]
        assert run(files, *given) == 0
        with np.load(output) as ranks:
            found.append((ranks["indices"], json.loads(text.read_text())["mAP"]))
    np.testing.assert_array_equal(found[0][0], found[1][0])
    assert found[0][1] == pytest.approx(found[1][1], abs=1e-9)


@pytest.mark.parametrize("lacking", [{"pids": None}, {"camids": None}])
@pytest.mark.parametrize("name", ["--query", "--gallery"])
def test_without_ids_there_are_no_metrics(files, tmp_path, capsys, name, lacking):
    changed(files, name, **lacking)
    output, text = tmp_path / "ranks.npz", tmp_path / "metrics.json"
    assert run(files, "--method", "none", "--json", text, "--output", output) == 0
    names = {"method", "seconds_fit", "seconds_rank", "peak_GB"}
    assert set(json.loads(text.read_text())) == names
    assert output.exists()
    assert capsys.readouterr().out.splitlines()[-1].split()[1:6] == ["-"] * 5


def test_cameras_are_normalized(files, tmp_path):
    """In both calls, and alike."""
    one, two = tmp_path / "one.json", tmp_path / "two.json"
    asked = ["--camera-normalization", "standardize"]
    assert run(files, "--method", "local_blurring", *asked, "--json", one) == 0
    assert run(files, "--compare", *asked, "--json", two) == 0
    library = build_reranker("local_blurring", camera_normalization="standardize")
    library.fit(GALLERY["features"], GALLERY["camids"])
    matrix = library.distance_matrix(QUERY["features"], camids=QUERY["camids"])
    ids = [QUERY["pids"], GALLERY["pids"], QUERY["camids"], GALLERY["camids"]]
    found = [json.loads(one.read_text()), *json.loads(two.read_text())]
    assert found[0]["method"] == "local_blurring+standardize"
    assert len({each["method"] for each in found}) == len(RERANKERS) == len(found) - 1
    for each in (each for each in found if each["method"] == found[0]["method"]):
        assert each["mAP"] == pytest.approx(evaluate_rank(matrix, *ids)[1], abs=1e-12)


def test_kinds_of_files_can_be_mixed(files, tmp_path):
    """Arrays and a table on one side, tensors with names of cameras on the other."""
    expected, text = tmp_path / "expected.json", tmp_path / "metrics.json"
    given = ["k=5", "cross_camera=0.3", "--json"]
    assert run(files, *given, expected) == 0
    library = build_reranker("graph_walk", k=5, cross_camera=0.3)
    library.fit(GALLERY["features"], GALLERY["camids"])
    matrix = library.distance_matrix(QUERY["features"], camids=QUERY["camids"])
    ids = [QUERY["pids"], GALLERY["pids"], QUERY["camids"], GALLERY["camids"]]
    mean = evaluate_rank(matrix, *ids)[1]
    assert json.loads(expected.read_text())["mAP"] == pytest.approx(mean, abs=1e-12)
    np.save(tmp_path / "q.npy", QUERY["features"])
    rows = [f"{pid},c{camid}" for pid, camid in zip(QUERY["pids"], QUERY["camids"])]
    (tmp_path / "q.csv").write_text("\n".join(["pid,camid", *rows]) + "\n")
    save_file({"features": GALLERY["features"]}, tmp_path / "g.safetensors")
    cameras = [f"c{camid}" for camid in GALLERY["camids"]]
    ids = {"pids": GALLERY["pids"].tolist(), "camids": cameras}
    (tmp_path / "g.json").write_text(json.dumps(ids))
    other = {"--query": str(tmp_path / "q.npy"), "--gallery": str(tmp_path / "g.safetensors")}
    assert run(other, *given, text) == 0
    found, wanted = (json.loads(path.read_text()) for path in (text, expected))
    for name in ("mAP", "mINP", "rank-1", "TPR@FPR=0.01", "valid_queries"):
        assert found[name] == wanted[name]


@pytest.mark.parametrize("dtype", ["float16", "float64", ">f4"])
def test_features_of_any_precision(files, tmp_path, dtype):
    for name, content in (("--query", QUERY), ("--gallery", GALLERY)):
        changed(files, name, features=content["features"].astype(dtype))
    assert run(files, "--method", "none", "--json", tmp_path / "metrics.json") == 0


def test_one_file_of_both(files, tmp_path):
    both = {"qf": QUERY["features"], "gf": GALLERY["features"]}
    for name in ("pids", "camids"):
        both |= {f"q_{name}": QUERY[name], f"g_{name}": GALLERY[name]}
    np.savez(tmp_path / "both.npz", **both)
    one = dict.fromkeys(files, str(tmp_path / "both.npz"))
    found = []
    for given in (files, one):
        assert run(given, "--method", "none", "--json", tmp_path / "metrics.json") == 0
        found.append(json.loads((tmp_path / "metrics.json").read_text())["mAP"])
    assert found[0] == found[1]


def test_dropped_queries_are_explained(files, tmp_path, capsys):
    changed(files, "--query", pids=np.where(np.arange(12) < 2, 77, QUERY["pids"]))
    assert run(files, "--method", "none", "--json", tmp_path / "metrics.json") == 0
    said = capsys.readouterr().err
    assert "2 of 12 queries are left out" in said and "(queries 0, 1)" in said
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert (metrics["queries"], metrics["valid_queries"]) == (12, 10)


def test_gallery_of_one_identity(files, tmp_path):
    """Everything counts but the rate of false matches, which needs another identity."""
    for name, content in (("--query", QUERY), ("--gallery", GALLERY)):
        changed(files, name, pids=np.zeros(len(content["pids"]), int))
    assert run(files, "--method", "none", "--json", tmp_path / "metrics.json") == 0
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["mAP"] == 1.0
    assert not [name for name in metrics if name.startswith("TPR")]


def test_cuhk03_metric(files, tmp_path):
    np.random.seed(0)
    assert run(files, "--method", "none", "--cuhk03-metric", "--json", tmp_path / "m.json") == 0
    np.random.seed(0)
    matrix = build_reranker("none").fit(GALLERY["features"]).distance_matrix(QUERY["features"])
    ids = [QUERY["pids"], GALLERY["pids"], QUERY["camids"], GALLERY["camids"]]
    cmc, _ = evaluate_rank(matrix, *ids, use_metric_cuhk03=True)
    assert json.loads((tmp_path / "m.json").read_text())["rank-1"] == pytest.approx(float(cmc[0]))


def bad_rows(value: float) -> np.ndarray:
    features = QUERY["features"].copy()
    features[[3, 7], 1] = value
    return features


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("--query", {"features": bad_rows(np.nan)}, "query must be finite: 2 rows"),
        ("--query", {"features": bad_rows(-np.inf)}, "the first at index [3, 7]"),
        ("--query", {"features": np.ones((12, 5))}, "same width, got 5 and 8"),
        ("--query", {"features": np.ones((12, 2, 4))}, "query must be (N, D)"),
        ("--query", {"features": np.array(["a"] * 12)}, "Features must be numbers"),
        ("--query", {"pids": np.arange(11)}, "pids must have one entry a feature"),
        ("--query", {"pids": np.array(["a"] * 12)}, "pids are numbers in one file and names"),
        ("--query", {"camids": np.array(["a"] * 12)}, "camids are numbers in one file and names"),
        ("--query", {"pids": np.arange(12) + 50}, "None of the 12 queries"),
        (
            "--gallery",
            {"features": np.ones((0, 8)), "pids": np.ones(0), "camids": np.ones(0)},
            "gallery must be (N, D) with N, D >= 1",
        ),
        ("--gallery", {"features": None}, "has no features"),
    ],
)
def test_refuses_content(files, tmp_path, capsys, name, content, message):
    changed(files, name, **content)
    given = ["--method", "none", "--json", tmp_path / "metrics.json"]
    assert message in refused(capsys, files, *given)
    assert not (tmp_path / "metrics.json").exists()


def test_zero_vectors_and_duplicates_are_ranked(files, tmp_path):
    features = GALLERY["features"].copy()
    features[5], features[6] = 0, features[7]
    changed(files, "--gallery", features=features)
    assert run(files, "--output", tmp_path / "ranks.npz") == 0
    with np.load(tmp_path / "ranks.npz") as found:
        assert np.isfinite(found["distances"]).all()
        np.testing.assert_array_equal(np.sort(found["indices"]), np.tile(np.arange(40), (12, 1)))


@pytest.mark.parametrize("name", ["--query", "--gallery"])
def test_missing_and_damaged_files(files, tmp_path, capsys, name):
    path = Path(files[name])
    path.write_bytes(path.read_bytes()[:200])
    role = name.removeprefix("--")
    assert f"The {role} file {path} cannot be read" in refused(capsys, files)
    path.unlink()
    assert f"The {role} file {path} does not exist" in refused(capsys, files)


@pytest.mark.parametrize("flag", ["--output", "--json"])
def test_nothing_half_written(files, tmp_path, capsys, monkeypatch, flag):
    before = sorted(tmp_path.rglob("*"))
    below = tmp_path / "q.npz" / "result"  # a file is no folder
    assert "cannot be read or written" in refused(capsys, files, "--method", "none", flag, below)
    assert sorted(tmp_path.rglob("*")) == before

    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "kept").touch()
    before = sorted(tmp_path.rglob("*"))
    assert "cannot be read or written" in refused(
        capsys, files, "--method", "none", flag, tmp_path / "folder"
    )
    assert sorted(tmp_path.rglob("*")) == before


def test_a_failed_write_keeps_the_old_file(files, tmp_path, capsys, monkeypatch):
    def full(file: Any, **content: Any) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    old = tmp_path / "ranks.npz"
    old.write_bytes(b"old")
    monkeypatch.setattr(np, "savez", full)
    said = refused(capsys, files, "--method", "none", "--output", old)
    assert "cannot be read or written" in said and "No space left" in said
    assert old.read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["g.npz", "q.npz", "ranks.npz"]


@pytest.mark.slow  # a process for each method, two seconds or more each
def test_compare(files, tmp_path, capfd):
    text = tmp_path / "metrics.json"
    assert run(files, "--compare", "--top-k", 5, "--json", text) == 0
    results = json.loads(text.read_text())
    assert [each["method"] for each in results] == list(RERANKERS)
    lines = capfd.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["method", *RERANKERS]
    ids = [QUERY["pids"], GALLERY["pids"], QUERY["camids"], GALLERY["camids"]]
    for line, each in zip(lines[1:], results):
        library = build_reranker(each["method"]).fit(GALLERY["features"], GALLERY["camids"])
        matrix = library.distance_matrix(QUERY["features"], camids=QUERY["camids"])
        assert each["mAP"] == pytest.approx(evaluate_rank(matrix, *ids)[1], abs=1e-6)
        assert line.split()[1] == f"{100 * each['mAP']:.2f}"


def test_compare_passes_all_on(files, tmp_path, monkeypatch, capsys):
    """Each method is asked for in a command of its own, with the same flags."""
    commands = []

    def answer(command: list[str], **_: Any) -> Any:
        commands.append(command)
        method = command[command.index("--method") + 1]
        result = {"method": method, "seconds_fit": 1, "seconds_rank": 2, "peak_GB": 3}
        Path(command[-1]).write_text(json.dumps(result))
        return rerank.subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(rerank.subprocess, "run", answer)
    flags = ["--inductive", "--cuhk03-metric", "--search", "faiss_flat", "--top-k", "7"]
    assert run(files, "--compare", *flags) == 0
    assert [command[command.index("--method") + 1] for command in commands] == list(RERANKERS)
    for command in commands:
        parsed = rerank.parse(command[2:])
        assert (parsed.query, parsed.gallery) == (files["--query"], files["--gallery"])
        assert parsed.inductive and parsed.cuhk03_metric and not parsed.compare
        assert (parsed.search, parsed.top_k, parsed.device) == ("faiss_flat", 7, "cpu")
        # squared distances need the farthest image, which an index cannot tell
        wanted = ["metric=cosine"] if parsed.method == "k_reciprocal" else []
        assert parsed.options == wanted
    assert len(capsys.readouterr().out.splitlines()) == 1 + len(RERANKERS)


def test_compare_goes_on_where_a_method_refuses(files, tmp_path, monkeypatch, capsys):
    def answer(command: list[str], **_: Any) -> Any:
        method = command[command.index("--method") + 1]
        if method == "group_shuffling":
            return rerank.subprocess.CompletedProcess(command, 2, "", "error: an odd width\n")
        result = {"method": method, "seconds_fit": 1, "seconds_rank": 2, "peak_GB": 3}
        Path(command[-1]).write_text(json.dumps(result))
        return rerank.subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(rerank.subprocess, "run", answer)
    out = tmp_path / "metrics.json"
    assert run(files, "--compare", "--json", out) == 0
    names = [row["method"] for row in json.loads(out.read_text())]
    assert names == [name for name in RERANKERS if name != "group_shuffling"]
    assert "warning: group_shuffling: an odd width" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("code", "said", "message"),
    [
        (2, "4 of 12\nerror: 2 rows hold NaN\n", "error: none: 2 rows hold NaN"),
        (-9, "", "error: none: exit status -9"),
    ],
)
def test_compare_says_what_failed(files, tmp_path, monkeypatch, capsys, code, said, message):
    process = rerank.subprocess.CompletedProcess([], code, "", said)
    monkeypatch.setattr(rerank.subprocess, "run", lambda *_, **__: process)
    assert message in refused(capsys, files, "--compare", "--json", tmp_path / "metrics.json")
    assert not (tmp_path / "metrics.json").exists()


def test_features_of_different_weights_are_not_compared(tmp_path, capsys):
    from torchreid_spectral.inference import Gallery

    features = np.eye(4, dtype=np.float32)
    for name, model in (("q", "a"), ("g", "b"), ("unknown", "")):
        Gallery(features, [*"abcd"], None, None, model).save(tmp_path / name)
    given = ["--gallery", str(tmp_path / "g"), "--method", "none", "--query"]
    assert rerank.main([*given, str(tmp_path / "q")]) == 2
    assert "The files are of different weights (a, b)" in capsys.readouterr().err
    assert rerank.main([*given, str(tmp_path / "unknown")]) == 0


@pytest.mark.parametrize("nobody", [-1, ""])
def test_queries_of_nobody_are_not_evaluated(files, tmp_path, capsys, nobody):
    """Distractors are many people under one number, and a gallery can be its own query."""
    unknown = np.arange(12) < 4
    pids = {"--query": QUERY["pids"], "--gallery": GALLERY["pids"]}
    if nobody == "":
        pids = {name: each.astype(str) for name, each in pids.items()}
    changed(files, "--query", pids=np.where(unknown, nobody, pids["--query"]))
    changed(files, "--gallery", pids=np.where(np.arange(40) < 6, nobody, pids["--gallery"]))
    command = ["--method", "none", "--json", tmp_path / "metrics.json"]
    assert run(files, *command) == 0
    assert "4 queries are of nobody known and not evaluated" in capsys.readouterr().err
    found = json.loads((tmp_path / "metrics.json").read_text())
    known = {name: each[~unknown] for name, each in (QUERY | {"pids": pids["--query"]}).items()}
    np.savez(files["--query"], **known)
    assert run(files, *command) == 0
    expected = json.loads((tmp_path / "metrics.json").read_text())
    assert found["queries"] == 8
    for name in expected.keys() - {"seconds_fit", "seconds_rank", "peak_GB"}:
        assert found[name] == pytest.approx(expected[name]), name


@pytest.mark.parametrize("flag", ["--output", "--json"])
@pytest.mark.parametrize("name", ["q.npz", "g.npz", "linked.npz"])
def test_inputs_are_not_written_over(files, tmp_path, capsys, flag, name):
    (tmp_path / "linked.npz").symlink_to(tmp_path / "q.npz")
    before = (tmp_path / name).read_bytes()
    assert "is read here and would be lost" in refused(capsys, files, flag, tmp_path / name)
    assert (tmp_path / name).read_bytes() == before


def test_labels_beside_are_not_written_over(files, tmp_path, capsys):
    np.save(tmp_path / "q.npy", QUERY["features"])
    table = tmp_path / "q.csv"
    table.write_text("pid,camid\n" + "".join(f"{pid},0\n" for pid in QUERY["pids"]))
    files["--query"] = str(tmp_path / "q.npy")
    assert "would be lost" in refused(capsys, files, "--output", table)
    gallery = Gallery(GALLERY["features"], [str(n) for n in range(40)])
    gallery.save(tmp_path / "gallery")
    files["--gallery"] = str(tmp_path / "gallery")
    index = tmp_path / "gallery" / "index.json"
    assert "would be lost" in refused(capsys, files, "--json", index)


def test_two_outputs_are_two_files(files, tmp_path, capsys):
    out = tmp_path / "out"
    assert "are one file" in refused(capsys, files, "--output", out, "--json", tmp_path / "./out")
    assert not out.exists()


def test_complex_features_have_no_order(files, capsys):
    changed(files, "--query", features=QUERY["features"] + 1j)
    assert "Features must be numbers: complex" in refused(capsys, files)


def saved_gallery(folder, content, metric):
    ids = content["pids"].tolist(), content["camids"].tolist()
    paths = [str(n) for n in range(len(ids[0]))]
    Gallery(content["features"], paths, *ids, metric=metric).save(folder)
    return str(folder)


@pytest.mark.parametrize("method", ["none", "k_reciprocal"])
def test_the_distance_is_that_of_the_gallery(tmp_path, capsys, method):
    files = {f"--{name}": saved_gallery(tmp_path / name, content, "euclidean")
             for name, content in (("query", QUERY), ("gallery", GALLERY))}  # fmt: skip
    given = ["--method", method, "--output", tmp_path / "r.npz"]
    for more, metric in (([], "euclidean"), (["metric=cosine"], "cosine")):
        assert run(files, *given, *more) == 0
        library = build_reranker(method, metric=metric).fit(GALLERY["features"])
        indices, distances = library.rank(QUERY["features"], 100)
        with np.load(tmp_path / "r.npz") as found:
            np.testing.assert_array_equal(found["indices"], indices)
            np.testing.assert_array_equal(found["distances"], distances)
    capsys.readouterr()
    assert run(files, "--method", "local_blurring") == 0
    assert "compares by cosine, the features were saved for euclidean" in capsys.readouterr().err


def test_two_distances_are_not_mixed(tmp_path, capsys):
    files = {"--query": saved_gallery(tmp_path / "q", QUERY, "cosine"),
             "--gallery": saved_gallery(tmp_path / "g", GALLERY, "euclidean")}  # fmt: skip
    assert "different distances (cosine, euclidean)" in refused(capsys, files, "--method", "none")
    assert run(files, "--method", "none", "metric=cosine") == 0
