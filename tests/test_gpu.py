"""The same on a GPU; skipped where there is none."""

import pytest
import torch

import torchreid_spectral as ts
from torchreid_spectral.functional import random_walk, rank_top_k, transition_matrix
from torchreid_spectral.rerank import RERANKERS, build_reranker, load_reranker

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA"),
]


def test_walk_and_autocast():
    x = torch.randn(64, 32)
    expected = random_walk(transition_matrix(x, 0.02), x)
    with torch.autocast("cuda", dtype=torch.bfloat16):
        actual = random_walk(transition_matrix(x.cuda(), 0.02), x.cuda())
    torch.testing.assert_close(actual.cpu(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("inductive", [False, True])
@pytest.mark.parametrize("name", RERANKERS)
def test_rerankers(name, inductive):
    gallery, query = torch.randn(300, 16), torch.randn(20, 16)
    expected = build_reranker(name).fit(gallery).distance_matrix(query, inductive=inductive)
    reranker = build_reranker(name).fit(gallery.cuda())
    actual = reranker.distance_matrix(query.cuda(), inductive=inductive)
    assert actual.is_cuda
    torch.testing.assert_close(actual.cpu(), expected, rtol=1e-4, atol=1e-4)
    indices, distances = reranker.rank(query.cuda(), 10, inductive=inductive)
    assert indices.is_cuda and distances.is_cuda


def test_top_k():
    gallery, query = torch.randn(300, 16), torch.randn(20, 16)
    indices, _ = rank_top_k(query.cuda(), gallery.cuda(), 10)
    assert torch.equal(indices.cpu(), rank_top_k(query, gallery, 10)[0])


def test_model_step(torchreid):
    model = ts.build_model("spectral_osnet_x0_25", 5, loss="spectral", pretrained=False).cuda()
    (plain, walked), _ = model(torch.rand(8, 3, 64, 32, device="cuda"))
    (plain.cosine.sum() + walked.cosine.sum()).backward()
    assert all(p.grad is not None for p in model.classifier.parameters())


def test_a_saved_gallery_on_a_gpu_grows(tmp_path):
    gallery, cameras = torch.randn(40, 16), torch.arange(40) % 3
    reranker = build_reranker("graph_walk", k=5, cross_camera=2.0)
    reranker.fit(gallery, cameras).save(tmp_path / "gallery.safetensors")
    loaded = load_reranker(tmp_path / "gallery.safetensors", device="cuda")
    loaded.add(gallery[:5], cameras[:5].numpy())
    found, _ = loaded.rank(gallery[:3].cuda(), 5, camids=cameras[:3])
    assert found.is_cuda and len(loaded.gallery) == 45


@pytest.mark.parametrize("name", ["osnet_x0_25", "hacnn"])
def test_a_model_on_a_gpu_is_exported_and_stays(torchreid, tmp_path, name):
    from torchreid_spectral.inference import Settings
    from torchreid_spectral.inference.export import export

    model = ts.build_model(f"spectral_{name}", 5, pretrained=False, use_gpu=True).eval().cuda()
    settings = Settings(model_name=f"spectral_{name}", height=160, width=64)
    export(model, settings, tmp_path / "model.pt", form="torchscript")
    assert next(model.parameters()).is_cuda
