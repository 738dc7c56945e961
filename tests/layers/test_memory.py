"""Tests of torchreid_spectral.layers.memory, alone and as nodes of a walk."""

import copy
import io

import numpy as np
import pytest
import torch

from tests.references import similarity, walk
from torchreid_spectral.layers import NodeMemory, SpectralAttention


def features(seed: int, *shape: int) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=g)


@pytest.mark.parametrize("sizes", [[1], [3, 3], [2, 2, 2, 2], [7], [4, 9, 1]])
def test_keeps_the_latest(sizes):
    memory, batches = NodeMemory(5, 2), [features(i, size, 2) for i, size in enumerate(sizes)]
    assert memory.read().shape == (0, 2)
    for batch in batches:
        memory.write(batch.float())
    expected = torch.cat(batches)[-5:].float()
    assert {tuple(row) for row in memory.read().tolist()} == {
        tuple(row) for row in expected.tolist()
    }
    assert memory.read().shape == expected.shape


def twin(batches, size, temperature, steps, restart):
    """Walk each batch on a graph of its rows, with the ``size`` nodes before it as anchors."""
    seen, results = np.zeros((0, batches[0].shape[1])), []
    for x in batches:
        anchors = seen[max(len(seen) - size, 0) :]
        nodes = np.concatenate([x, anchors])
        graph = walk.softmax_transition(similarity.cosine(x, nodes), temperature)
        results.append(walk.random_walk(graph, x, steps, restart, anchors))
        seen = np.concatenate([seen, x])
    return results


@pytest.mark.parametrize(("steps", "restart"), [(1, 0.0), (3, 0.2), (float("inf"), 0.3)], ids=str)
@pytest.mark.parametrize("size", [4, 6, 50])
def test_walk_with_memory_matches_reference(size, steps, restart):
    batches = [features(i, 4, 6) for i in range(4)]
    layer = SpectralAttention(6, memory=size, steps=steps, restart=restart, temperature=0.5)
    layer.double()
    long = 200 if steps == float("inf") else steps
    for x, expected in zip(batches, twin([b.numpy() for b in batches], size, 0.5, long, restart)):
        torch.testing.assert_close(layer(x), torch.from_numpy(expected))


def test_starts_as_a_walk_without_memory():
    x = features(0, 4, 6)
    layer = SpectralAttention(6, memory=8).double()
    torch.testing.assert_close(layer(x), SpectralAttention()(x))
    torch.testing.assert_close(layer(x), SpectralAttention()(x))  # each node is there twice
    assert not torch.allclose(layer(features(1, 4, 6)), SpectralAttention()(features(1, 4, 6)))
    torch.testing.assert_close(layer.transition(x), SpectralAttention().transition(x))


@pytest.mark.parametrize("walk", [{}, {"steps": float("inf"), "restart": 0.3}], ids=str)
def test_no_gradient_into_earlier_batches_and_a_backward_pass_after_writing(walk):
    layer = SpectralAttention(6, memory=8, temperature=0.5, **walk).double()
    first, second = (features(i, 4, 6).requires_grad_() for i in range(2))
    out = layer(first)
    later = layer(second)
    later.sum().backward()
    assert first.grad is None
    assert torch.isfinite(second.grad).all()
    out.sum().backward()
    assert first.grad is not None


def test_eval_neither_reads_nor_writes():
    layer, x = SpectralAttention(6, memory=8).double(), features(0, 4, 6)
    layer(features(1, 4, 6))
    kept = layer.memory.read()
    torch.testing.assert_close(layer.eval()(x), SpectralAttention()(x))
    assert torch.equal(layer.memory.read(), kept)


def test_resumes_where_it_was():
    layer, x = SpectralAttention(6, memory=5, steps=2).double(), features(3, 4, 6)
    for seed in range(3):
        layer(features(seed, 4, 6))
    buffer = io.BytesIO()
    torch.save(layer.state_dict(), buffer)
    buffer.seek(0)
    state = torch.load(buffer, weights_only=True)
    assert all(isinstance(value, torch.Tensor) for value in state.values())
    other = SpectralAttention(6, memory=5, steps=2).double()
    other.load_state_dict(state)
    copied = copy.deepcopy(layer)
    expected = [layer(x), layer(x)]
    for again in (other, copied):
        assert all(torch.equal(again(x), value) for value in expected)


@pytest.mark.parametrize("options", [{"heads": 2}, {"heads": 2, "group_shuffling": True}])
def test_memory_is_cut_as_the_batch_is(options):
    layer = SpectralAttention(6, memory=4, temperature=0.5, **options).double()
    first, x = features(0, 4, 6), features(1, 4, 6)
    layer(first)
    halves = []
    for part in (slice(0, 3), slice(3, 6)):
        graph = walk.softmax_transition(
            similarity.cosine(x[:, part].numpy(), torch.cat([x, first])[:, part].numpy()), 0.5
        )
        walked = torch.from_numpy(graph) @ torch.cat([x, first])
        halves.append(walked if "group_shuffling" in options else walked[:, part])
    if "group_shuffling" in options:
        for actual, expected in zip(layer.walks(x), halves, strict=True):
            torch.testing.assert_close(actual, expected)
    else:
        torch.testing.assert_close(layer(x), torch.cat(halves, 1))


def test_rejects():
    with pytest.raises(ValueError, match="memory must be >= 1 nodes, got 0"):
        NodeMemory(0, 3)
    with pytest.raises(ValueError, match="a memory takes vectors"):
        SpectralAttention(3, memory=2)(torch.ones(2, 3, 4, 4))


@pytest.mark.parametrize("reentrant", [True, False])
def test_activation_checkpointing_is_refused(reentrant):
    """Computed anew, the forward pass would find the batch itself in the memory."""
    layer, x = SpectralAttention(6, memory=4).double(), features(0, 4, 6).requires_grad_()
    layer(features(1, 4, 6))
    y = torch.utils.checkpoint.checkpoint(layer, x, use_reentrant=reentrant)
    with pytest.raises(RuntimeError, match="does not go together with activation checkpointing"):
        y.sum().backward()
    layer.eval()  # which does not look at the memory
    torch.utils.checkpoint.checkpoint(layer, x, use_reentrant=reentrant).sum().backward()


def test_features_that_were_not_taken_over_do_not_count():
    layer = SpectralAttention(6, memory=8).double()
    layer(features(0, 4, 6))
    other = SpectralAttention(6, memory=16).double()
    fitting = {k: v for k, v in layer.state_dict().items() if not k.endswith("nodes")}
    other.load_state_dict(fitting, strict=False)  # as torchreid loads what has another size
    assert other.memory.read().shape == (0, 6)


COMPILED = """
import copy, torch
from torchreid_spectral.layers import SpectralAttention
batches = torch.randn(6, 4, 6, generator=torch.Generator().manual_seed(0))
plain, graphs = SpectralAttention(temperature=0.3), []
traced = torch.__version__.split(".")[:2] != ["2", "6"]  # which cuts a graph at autocast
print(int(traced))
whole = torch.compile(plain, backend="eager", fullgraph=traced)
torch.testing.assert_close(whole(batches[0]), plain(batches[0]))
learned = SpectralAttention(temperature=0.3, learn_temperature=True)
whole = torch.compile(learned, backend="eager", fullgraph=traced)
torch.testing.assert_close(whole(batches[0]), plain(batches[0]))
torch._dynamo.reset()
layer = SpectralAttention(6, memory=6, temperature=0.3)
eager = copy.deepcopy(layer)
compiled = torch.compile(layer, backend=lambda graph, _: graphs.append(graph) or graph.forward)
for batch in batches:
    torch.testing.assert_close(compiled(batch), eager(batch))
    print(len(graphs))
"""


def test_a_compiled_walk_is_one_graph_and_its_memory_is_left_out(python):
    """A process without the checks of types, which cannot be traced."""
    traced, *counts = [int(line) for line in python("-c", COMPILED).stdout.split()]
    assert counts[-1] == counts[2]  # empty, half full, full; then nothing new
    assert counts[2] <= (5 if traced else 16)


@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
def test_what_is_not_finite_is_not_kept(bad):
    layer = SpectralAttention(4, memory=6).double().train()
    layer(features(0, 4, 4))
    broken = features(1, 4, 4)
    broken[2, 0] = bad
    layer(broken)
    kept = torch.cat([features(0, 4, 4), broken[[0, 1, 3]]])[-6:]
    order = layer.memory.written % 6
    torch.testing.assert_close(layer.memory.nodes.roll(-order, 0), kept)
    assert layer(features(2, 4, 4)).isfinite().all()
