"""Samplers that torchreid has not, and their way into its closed chain of choices."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence
from functools import wraps
from typing import Any

from torch.utils.data import Sampler

from torchreid_spectral import _compat
from torchreid_spectral.errors import InputError

__all__ = ["IdentityOnceSampler", "patch_samplers"]


class IdentityOnceSampler(Sampler[int]):
    """Visit every identity exactly once an epoch, P identities x K images a batch.

    Source: the recipe of C. Luo et al., *Spectral Feature Transformation for Person
    Re-identification*, ICCV 2019. torchreid's ``RandomIdentitySampler`` walks all images instead,
    about twice as many steps an epoch on Market-1501.

    torchreid's loaders drop the last batch where it is not full: of Market-1501's 751 identities
    15 wait for a later epoch at P = 16. Identities come in random order, K random images each; an
    identity with fewer than K gives all of its images and repeats some. Draws come from Python's
    global generator, which torchreid seeds.

    Args:
        data_source: Tuples ``(path, pid, camid, dataset)``.
        batch_size: B = P x K.
        num_instances: K.

    Raises:
        InputError: If B is not a multiple of K, or there are fewer than P identities.
    """

    def __init__(self, data_source: Sequence[Any], batch_size: int, num_instances: int) -> None:
        if num_instances < 1 or batch_size % num_instances:
            raise InputError(
                "train.batch_size must be a multiple of sampler.num_instances >= 1, got "
                f"{batch_size} and {num_instances}."
            )
        self.num_instances = num_instances
        self.images_of: dict[int, list[int]] = defaultdict(list)
        for index, item in enumerate(data_source):
            self.images_of[item[1]].append(index)
        _check_identities(self.images_of, batch_size, num_instances)

    def __iter__(self) -> Iterator[int]:
        identities = list(self.images_of)
        random.shuffle(identities)
        for identity in identities:
            yield from self._draw(self.images_of[identity])

    def __len__(self) -> int:
        return len(self.images_of) * self.num_instances

    def _draw(self, images: list[int]) -> list[int]:
        if len(images) >= self.num_instances:
            return random.sample(images, self.num_instances)
        return images + random.choices(images, k=self.num_instances - len(images))


def _check_identities(identities: Collection[int], batch_size: int, num_instances: int) -> None:
    needed = batch_size // num_instances
    if len(identities) < needed:
        raise InputError(
            f"A batch of {batch_size} images, {num_instances} an identity, needs {needed} "
            f"identities; the training set has {len(identities)}. Lower train.batch_size."
        )


# Samplers of torchreid that draw equally many images from each of some groups.
_GROUPS = {
    "RandomDomainSampler": ("camera", "sampler.num_cams", 2),
    "RandomDatasetSampler": ("dataset", "sampler.num_datasets", 3),
}


def _check_groups(
    data_source: Sequence[Any],
    train_sampler: str,
    batch_size: int,
    num_cams: int | None = 1,
    num_datasets: int | None = 1,
    **_: Any,  # noqa: ANN401
) -> None:
    """Refuse what torchreid would stop at without a word, at once or in some epoch."""
    if train_sampler not in _GROUPS:
        return
    noun, option, place = _GROUPS[train_sampler]
    sizes = Counter(item[place] for item in data_source)
    given = {"camera": num_cams, "dataset": num_datasets}[noun] or 0
    wanted = given if given > 0 else len(sizes)  # all of them, as torchreid's samplers say
    if wanted > len(sizes) or batch_size % wanted:
        raise InputError(
            f"{option} {given}: {wanted} {noun}s cannot share a batch of {batch_size} images "
            f"alike, or are more than the {len(sizes)} of the training set."
        )
    group, fewest = min(sizes.items(), key=lambda pair: pair[1])
    if fewest < batch_size // wanted:
        raise InputError(
            f"{train_sampler} takes {batch_size // wanted} images of a {noun} into a batch; "
            f"{noun} {group} has {fewest}. Lower train.batch_size or raise {option}."
        )


def patch_samplers() -> None:
    """Let torchreid's data managers know ``IdentityOnceSampler`` by name; idempotent."""
    module = _compat.submodule("data.sampler")
    original = module.build_train_sampler
    if "IdentityOnceSampler" in module.AVAI_SAMPLERS:
        return

    @wraps(original)
    def build_train_sampler(
        data_source: Sequence[Any],
        train_sampler: str,
        batch_size: int = 32,
        num_instances: int = 4,
        *args: Any,  # noqa: ANN401 (torchreid's)
        **kwargs: Any,  # noqa: ANN401
    ) -> Sampler[int]:
        if train_sampler == "IdentityOnceSampler":
            return IdentityOnceSampler(data_source, batch_size, num_instances)
        if train_sampler == "RandomIdentitySampler":  # torchreid's assertion says nothing
            _check_identities({item[1] for item in data_source}, batch_size, num_instances)
        _check_groups(data_source, train_sampler, batch_size, *args, **kwargs)
        sampler: Sampler[int] = original(
            data_source, train_sampler, batch_size, num_instances, *args, **kwargs
        )
        return sampler

    _compat.replace_everywhere(original, build_train_sampler)
    module.AVAI_SAMPLERS.append("IdentityOnceSampler")
