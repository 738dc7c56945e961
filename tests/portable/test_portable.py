"""The portable re-rankers give what the others give, without torch."""

import json

import numpy as np
import pytest

from torchreid_spectral.errors import InputError
from torchreid_spectral.portable import graph_walk, load_features, local_blurring
from torchreid_spectral.rerank import build_reranker

PAIRS = [
    ("local_blurring", local_blurring, {"k": 12, "temperature": 0.1}),
    ("local_blurring", local_blurring, {"k": 100, "temperature": 0.3, "steps": 3}),
    ("local_blurring", local_blurring, {"k": 1}),
    ("graph_walk", graph_walk, {}),
    ("graph_walk", graph_walk, {"k": 4, "num_averaged": 1, "lambda_value": 0.0}),
    ("graph_walk", graph_walk, {"k": 200, "steps": 2, "temperature": 0.1}),
]


def people(seed):
    """Noisy features of 15 people: 9 queries and 60 gallery images."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(15, 24))
    features = centres[np.arange(69) % 15] + 0.8 * rng.normal(size=(69, 24))
    return features[:9].astype(np.float32), features[9:].astype(np.float32)


@pytest.mark.parametrize("k", [1, 2, 7, 40, 41])
def test_nearest_is_the_head_of_a_stable_sort(k):
    from torchreid_spectral.portable.features import nearest

    rng = np.random.default_rng(k)
    for levels in (2, 5, 10**6):  # many ties at the k-th place, some, none
        distances = rng.integers(0, levels, (50, 40)).astype(np.float32)
        expected = np.argsort(distances, axis=1, kind="stable")[:, :k]
        np.testing.assert_array_equal(nearest(distances, k), expected)


@pytest.mark.parametrize(("name", "portable", "options"), PAIRS)
@pytest.mark.parametrize("top_k", [5, 100])
def test_equals_the_reranker(name, portable, options, top_k):
    query, gallery = people(0)
    reranker = build_reranker(name, **options).fit(gallery)
    expected, near = reranker.rank(query, top_k=top_k)
    found, distances = portable(query, gallery, top_k=top_k, **options)
    assert found.shape == (9, min(top_k, 60))
    np.testing.assert_allclose(distances, near, atol=2e-6)
    # where distances are equal to the last bits the two may order them differently
    swapped = found != expected
    whole = reranker.distance_matrix(query)
    np.testing.assert_allclose(
        np.take_along_axis(whole, found, 1)[swapped], near[swapped], atol=2e-6
    )
    assert swapped.mean() < 0.05


def test_zero_rows_and_duplicates():
    query, gallery = people(1)
    gallery[3] = 0
    gallery[5] = gallery[6]
    for portable in (local_blurring, graph_walk):
        found, distances = portable(query, gallery)
        assert np.isfinite(distances).all()
        assert (np.sort(found, axis=1) == np.arange(60)).all()


def test_needs_neither_torch_nor_torchreid(python, tmp_path):
    from torchreid_spectral.inference import Gallery

    query, gallery = people(2)
    Gallery(gallery, [f"{i}.jpg" for i in range(60)]).save(tmp_path / "gallery")
    np.save(tmp_path / "query.npy", query)
    for name in ("torch", "torchreid", "torchvision"):
        (tmp_path / f"{name}.py").write_text("raise ImportError('blocked by the test')")
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import numpy as np\n"
        "from torchreid_spectral.portable import graph_walk, load_features, local_blurring\n"
        "features, paths = load_features(sys.argv[1] + '/gallery')\n"
        "query = np.load(sys.argv[1] + '/query.npy')\n"
        "assert 'torch' not in sys.modules\n"
        "for method in (local_blurring, graph_walk):\n"
        "    print(paths[method(query, features, top_k=1)[0][0, 0]])\n"
    )
    shown = python("-c", code, tmp_path).stdout.split()
    best = [portable(query, gallery)[0][0, 0] for portable in (local_blurring, graph_walk)]
    assert shown == [f"{index}.jpg" for index in best]


def test_a_broken_gallery_is_called_so(tmp_path):
    from torchreid_spectral.inference import Gallery

    Gallery(people(2)[1], [f"{i}.jpg" for i in range(60)]).save(tmp_path)
    (tmp_path / "features-00000.safetensors").write_bytes(b"cut")
    with pytest.raises(InputError, match="not a finished gallery"):
        load_features(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"paths": ["a.jpg"]}, "not one path a feature"),
        ({"paths": 7}, "not a finished gallery"),
        (None, "not a finished gallery"),
    ],
)
def test_rows_without_a_path_are_no_gallery(tmp_path, change, message):
    from torchreid_spectral.inference import Gallery

    Gallery(people(2)[1], [f"{i}.jpg" for i in range(60)]).save(tmp_path)
    file = tmp_path / "features-00000.json"
    content = json.loads(file.read_text())
    file.write_text(json.dumps([] if change is None else content | change))
    with pytest.raises(InputError, match=message):
        load_features(tmp_path)


def test_shards_of_different_weights_are_no_gallery(tmp_path):
    from torchreid_spectral.inference import Gallery
    from torchreid_spectral.inference.shards import write_manifest, write_shard

    names = [
        write_shard(tmp_path, n, Gallery(people(2)[1][:2], ["a", "b"], model=model))
        for n, model in enumerate(("x", "y"))
    ]
    write_manifest(tmp_path, names, "x", "cosine")
    with pytest.raises(InputError, match="of different weights"):
        load_features(tmp_path)


@pytest.mark.parametrize("scale", [1e-18, 1e-10, 1e10])
@pytest.mark.parametrize(("name", "portable", "options"), PAIRS[:1] + PAIRS[3:4])
def test_the_scale_of_features_changes_nothing(name, portable, options, scale):
    query, gallery = people(3)
    scaled = [part * np.float32(scale) for part in (query, gallery)]
    expected = portable(query, gallery, top_k=60, **options)[1]
    np.testing.assert_allclose(portable(*scaled, top_k=60, **options)[1], expected, atol=2e-6)
    reranker = build_reranker(name, **options).fit(scaled[1])
    np.testing.assert_allclose(reranker.rank(scaled[0], top_k=60)[1], expected, atol=2e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda q, g: local_blurring(q, g, k=0), "k, top_k must be >= 1"),
        (lambda q, g: graph_walk(q, g, lambda_value=2), r"in \[0, 1\], got 2"),
        (lambda q, g: graph_walk(q, g, steps=-1), "steps >= 0"),
        (lambda q, g: graph_walk(q, g, temperature=np.nan), "temperature > 0"),
        (lambda q, g: local_blurring(q, g, temperature=np.nan), "temperature > 0"),
        (lambda q, g: local_blurring(q[:, :3], g), "same width, got 3 and 24"),
        (lambda q, g: local_blurring(q * np.nan, g), "query must be .*finite"),
        (lambda q, g: load_features("nowhere"), "not a finished gallery"),
    ],
)
def test_rejects(call, message):
    with pytest.raises(InputError, match=message):
        call(*people(3))
