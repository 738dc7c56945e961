"""Tests of torchreid_spectral.report.ranked_lists."""

import base64
import io

import numpy as np
import torch
from PIL import Image

from torchreid_spectral.report.ranked_lists import (
    RIGHT,
    WRONG,
    draw_ranked_lists,
    folders_of_pictures,
)
from torchreid_spectral.rerank import build_reranker


def test_draws_right_and_wrong_and_leaves_out_the_same_camera(tmp_path):
    for name in "abcd":
        Image.new("RGB", (10, 20), "white").save(tmp_path / f"{name}.png")
    path = {name: str(tmp_path / f"{name}.png") for name in "abcd"}
    gallery = [(path["a"], 1, 0), (path["b"], 1, 1), (path["c"], 2, 1)]
    features = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
    views = {"none": build_reranker("none").fit(features)}
    out = tmp_path / "new" / "lists.png"
    draw_ranked_lists(out, views, features[:1], [(path["d"], 1, 0)], gallery, num_queries=1)
    colours = {tuple(c) for c in np.asarray(Image.open(out)).reshape(-1, 3)}
    assert RIGHT in colours and WRONG in colours

    # without the wrong one only the right answer of the other camera is left
    views = {"none": build_reranker("none").fit(features[:2])}
    draw_ranked_lists(out, views, features[:1], [(path["d"], 1, 0)], gallery, num_queries=1)
    colours = {tuple(c) for c in np.asarray(Image.open(out)).reshape(-1, 3)}
    assert RIGHT in colours and WRONG not in colours


def test_pictures_of_equal_names_get_folders():
    assert folders_of_pictures(["a/1.jpg", "b/2.jpg"]) == {"": [0, 1]}
    own = ["q/7/c1_0.jpg", "q/8/c1_0.jpg", "q/7/c2_0.png"]
    assert folders_of_pictures(own) == {"7": [0, 2], "8": [1]}
    tracklets = [("7/c1_0/0.jpg", "7/c1_0/1.jpg"), ("7/c2_0/0.jpg",), ("8/c1_0/0.jpg",)]
    assert folders_of_pictures(tracklets) == {"7/c1_0": [0], "7/c2_0": [1], "8/c1_0": [2]}
    assert folders_of_pictures(["q/1.jpg", "q/1.png"]) == {".": [0, 1]}


def test_pictures_of_16_bits_are_not_white(tmp_path):
    from torchreid_spectral.report.page import data_url

    ramp = np.linspace(0, 65535, 64 * 32).astype(np.uint16).reshape(64, 32)
    Image.fromarray(ramp).save(tmp_path / "deep.png")
    shown = base64.b64decode(data_url(tmp_path / "deep.png").partition(",")[2])
    assert 100 < np.asarray(Image.open(io.BytesIO(shown))).mean() < 155
