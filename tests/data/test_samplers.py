"""Tests of torchreid_spectral.data.samplers."""

import random
from collections import Counter

import pytest

from torchreid_spectral.data.samplers import IdentityOnceSampler
from torchreid_spectral.errors import InputError

DATA = [(f"{pid}_{i}.jpg", pid, i % 2, 0) for pid in range(7) for i in range(3 + pid)]


def test_every_identity_once_with_k_images():
    random.seed(0)
    sampler = IdentityOnceSampler(DATA, 8, 4)
    order = list(sampler)
    assert len(order) == len(sampler) == 7 * 4
    assert Counter(DATA[i][1] for i in order) == dict.fromkeys(range(7), 4)
    for start in range(0, len(order), 4):  # the K images of an identity stand together
        assert len({DATA[i][1] for i in order[start : start + 4]}) == 1


def test_images_repeat_only_where_there_are_too_few():
    for start in range(0, 28, 4):
        order = list(IdentityOnceSampler(DATA, 8, 4))[start : start + 4]
        available = sum(item[1] == DATA[order[0]][1] for item in DATA)
        assert len(set(order)) == min(4, available)


def test_all_images_of_an_identity_come_up_in_time():
    random.seed(0)
    sampler = IdentityOnceSampler(DATA, 8, 4)
    seen = {index for _ in range(60) for index in sampler}
    assert seen == set(range(len(DATA)))


def test_order_follows_the_seed():
    def draw(seed):
        random.seed(seed)
        return list(IdentityOnceSampler(DATA, 8, 4))

    assert draw(1) == draw(1) != draw(2)


def test_known_to_torchreid(torchreid):
    from torchreid_spectral import _compat

    build = _compat.submodule("data.sampler").build_train_sampler
    sampler = build(DATA, "IdentityOnceSampler", batch_size=8, num_instances=4)
    assert isinstance(sampler, IdentityOnceSampler)
    assert type(build(DATA, "RandomIdentitySampler", batch_size=8)).__name__.startswith("Random")


@pytest.mark.parametrize(
    ("batch", "k", "message"),
    [(10, 4, "multiple of sampler.num_instances"), (32, 4, "needs 8 identities; .* has 7")],
)
def test_rejects(batch, k, message):
    with pytest.raises(InputError, match=message):
        IdentityOnceSampler(DATA, batch, k)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("RandomDomainSampler", {"num_cams": 4}, "sampler.num_cams 4: 4 cameras cannot share"),
        ("RandomDomainSampler", {"num_cams": 3}, "or are more than the 2 of the training set"),
        ("RandomDomainSampler", {"num_cams": 1}, "camera 1 has 3. Lower train.batch_size"),
        ("RandomDatasetSampler", {"num_datasets": 2}, "more than the 1 of the training set"),
        ("RandomDatasetSampler", {"num_datasets": 1, "batch_size": 99}, "dataset 0 has 23"),
    ],
)
def test_torchreid_s_samplers_of_groups_say_what_they_need(torchreid, name, options, message):
    from torchreid_spectral import _compat

    build = _compat.submodule("data.sampler").build_train_sampler
    data = [("a.jpg", number % 5, 0, 0) for number in range(20)] + 3 * [("b.jpg", 1, 1, 0)]
    with pytest.raises(InputError, match=message):
        build(data, name, **{"batch_size": 8, **options})


@pytest.mark.parametrize("cameras", [2, 0])  # 0 stands for all
def test_torchreid_s_samplers_of_groups_draw(torchreid, cameras):
    from torchreid_spectral import _compat

    build = _compat.submodule("data.sampler").build_train_sampler
    data = [("a.jpg", number % 5, number % 2, 0) for number in range(20)]
    order = list(build(data, "RandomDomainSampler", batch_size=8, num_cams=cameras))
    assert len(order) >= 8 and sum(data[row][2] for row in order[:8]) == 4
