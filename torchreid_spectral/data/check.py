"""What is wrong with a user's images, before a training run finds out."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import ExifTags, Image
from tqdm import tqdm

from torchreid_spectral.data.findings import Finding, Report, counts_of, table_of
from torchreid_spectral.data.folder import SPLITS, Item, Scan, natural
from torchreid_spectral.data.images import as_rgb
from torchreid_spectral.data.splits import REASONS, camera_advice, propose_split, unmatched
from torchreid_spectral.errors import InputError

__all__ = ["check"]


def check(
    found: Scan,
    *,
    batch_size: int = 64,
    num_instances: int = 4,
    one_camera: bool = False,
    read_files: bool = True,
    workers: int = 4,
    progress: bool = True,
) -> Report:
    """Check a collection.

    Args:
        found: Of :func:`~torchreid_spectral.data.folder.scan`.
        batch_size: B = P x K that shall be trained with.
        num_instances: K.
        one_camera: Whether a match in the query's own camera counts.
        read_files: Whether to decode every file and compare contents.
        workers: Threads that read.
        progress: Whether to show a bar on a terminal.

    Returns:
        Counts and findings.
    """
    items = found.items
    report = Report(
        str(found.root),
        found.kind,
        counts_of(items),
        table_of(items, "pid"),
        table_of(items, "camid"),
    )
    report.findings += _names(found)
    if found.has_split:
        report.findings += _overlap(items, found.distractors)
        report.findings += _matches(items, one_camera)
        trained = [item for item in items if item.split == "train"]
    else:
        try:
            report.proposal = propose_split(
                items, one_camera=one_camera, distractors=found.distractors
            )
            report.findings += _partial_split(items)
        except InputError as error:
            report.findings.append(Finding("no_split", "error", 1, str(error), counted=False))
        trained = [item for item in report.proposal or () if item.split == "train"]
    if read_files:
        report.findings += _contents(report.proposal or items, workers, progress)
    if not one_camera:
        report.findings += _cameras(items, found.distractors)
    report.findings += _batches(trained, batch_size, num_instances, found.distractors)
    report.findings.sort(key=lambda finding: finding.severity)
    return report


def _some(values: Iterable[str], limit: int = 5) -> tuple[str, ...]:
    return tuple(sorted(values, key=natural)[:limit])


def _names(found: Scan) -> list[Finding]:
    if not found.ignored:
        return []
    message = (
        "files, rows or folders were passed over: they do not say identity and camera, or are of "
        "a kind that is not read"
    )
    return [Finding("ignored", "warning", len(found.ignored), message, _some(found.ignored))]


def _read(file: str) -> tuple[str, str, bool]:
    """Give the hash of a file's content, what keeps it from being decoded, and if it is turned."""
    try:
        content = Path(file).read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        with Image.open(file) as image:
            as_rgb(image)
            turned = image.getexif().get(ExifTags.Base.Orientation, 1) not in (0, 1)
    except Exception as error:  # Pillow raises many kinds for a bad file
        return "", str(error) or type(error).__name__, False
    return digest, "", turned


def _contents(items: Sequence[Item], workers: int, progress: bool) -> list[Finding]:
    """Read every file: what cannot be decoded, and what is there twice."""
    owners = [(file, item) for item in items for file in item.files]
    with ThreadPoolExecutor(max(1, workers)) as pool:
        results = list(
            tqdm(
                pool.map(_read, [file for file, _ in owners]),
                "reading",
                len(owners),
                disable=None if progress else True,
            )
        )
    copies: dict[str, list[tuple[str, Item]]] = defaultdict(list)
    broken, missing, turned = [], [], []
    for (file, item), (digest, fault, lying) in zip(owners, results):
        turned += [file] if lying else []
        if fault and not Path(file).exists():
            missing.append(file)
        elif fault:
            broken.append(f"{file}: {fault}")
        else:
            copies[digest].append((file, item))
    findings = []
    if broken:
        message = "files cannot be read as images: mend or remove them, or set data.on_error skip"
        findings.append(Finding("unreadable", "error", len(broken), message, _some(broken)))
    if missing:
        message = "files do not exist, or are links that lead nowhere: mend or remove them"
        findings.append(Finding("missing", "error", len(missing), message, _some(missing)))
    if turned:
        message = (
            "pictures are stored lying, with a note (EXIF) how to turn them, which training and "
            "search do not look at: save them upright"
        )
        findings.append(Finding("turned", "warning", len(turned), message, _some(turned)))
    return findings + _duplicates([group for group in copies.values() if len(group) > 1])


def _duplicates(groups: Sequence[list[tuple[str, Item]]]) -> list[Finding]:
    kinds: dict[str, list[str]] = defaultdict(list)
    for group in groups:
        splits = {item.split for _, item in group}
        names = " = ".join(file for file, _ in group[:3])
        if len({item.pid for _, item in group}) > 1:
            kinds["duplicate_identities"].append(names)
        if len(splits) > 1:
            kinds["duplicate_across_splits"].append(names)
        elif len(group) > len({item.pid for _, item in group}):
            kinds["duplicate"].append(names)
    messages = {
        "duplicate_identities": "pictures lie under two identities: one of the labels is wrong",
        "duplicate_across_splits": "pictures are in two splits: the test measures what was seen",
        "duplicate": "pictures are there twice in one split",
    }
    return [
        Finding(kind, "warning" if kind == "duplicate" else "error", len(kinds[kind]), message,
                _some(kinds[kind]))
        for kind, message in messages.items() if kinds[kind]
    ]  # fmt: skip


def _overlap(items: Sequence[Item], distractors: str) -> list[Finding]:
    people = {
        split: {item.pid for item in items if item.split == split} - {distractors}
        for split in SPLITS
    }
    both = people["train"] & (people["query"] | people["gallery"])
    if not both:
        return []
    message = (
        "identities are in training and test: the test then says nothing about new people (if "
        "folders are numbered anew in each split, number them through)"
    )
    return [Finding("identities_in_train_and_test", "error", len(both), message, _some(both))]


def _matches(items: Sequence[Item], one_camera: bool) -> list[Finding]:
    findings = []
    counts = Counter(item.split for item in items)
    for split, need in (("train", "to train"), ("query", "to test"), ("gallery", "to test")):
        if not counts[split]:
            message = f"no {split} images, which are needed {need}"
            findings.append(Finding(f"no_{split}", "warning", 1, message, counted=False))
    lost = unmatched(items, one_camera=one_camera)
    for reason, why in REASONS.items():
        files = [item.files[0] for item, each in lost if each == reason]
        if files:
            advice = camera_advice(items) if reason == "same_camera" else "Add images to gallery."
            message = f"of {counts['query']} queries have no valid match: {why}. {advice}"
            code = f"query_{reason}"
            findings.append(Finding(code, "error", len(files), message, _some(files)))
    return findings


def _partial_split(items: Sequence[Item]) -> list[Finding]:
    without = [item.files[0] for item in items if not item.split]
    if len(without) == len(items):
        message = "no splits are given: one is proposed, and used in training"
        return [Finding("no_splits", "warning", 1, message, counted=False)]
    message = "items have no split while others have one: all splits are proposed anew"
    return [Finding("partial_split", "error", len(without), message, _some(without))]


def _cameras(items: Sequence[Item], distractors: str) -> list[Finding]:
    cameras: dict[str, set[str]] = defaultdict(set)
    for item in items:
        if item.pid != distractors:
            cameras[item.pid].add(item.camid)
    single = [pid for pid, seen in cameras.items() if len(seen) == 1]
    if not single:
        return []
    message = (
        f"of {len(cameras)} identities are seen by one camera: a query of theirs has no match"
    )
    return [Finding("one_camera", "warning", len(single), message, _some(single))]


def _batches(
    items: Sequence[Item], batch_size: int, num_instances: int, distractors: str
) -> list[Finding]:
    """Compare the training images with P identities x K images a batch."""
    counts = Counter(item.pid for item in items if item.pid != distractors)
    findings: list[Finding] = []
    if not counts:
        return findings
    if batch_size % num_instances:
        message = (
            f"images of a batch (train.batch_size) are no multiple of the {num_instances} of an "
            "identity (sampler.num_instances): training would stop at once"
        )
        findings.append(Finding("uneven_batch", "error", batch_size, message))
    needed = max(1, batch_size // num_instances)
    if len(counts) < needed:
        message = (
            f"training identities are fewer than the P = {needed} of a batch (train.batch_size "
            f"{batch_size} / sampler.num_instances {num_instances}): lower train.batch_size to "
            f"{len(counts) * num_instances}"
        )
        findings.append(Finding("few_identities", "error", len(counts), message))
    few = [pid for pid, count in counts.items() if count < num_instances]
    if few:
        message = (
            f"of {len(counts)} training identities have fewer than K = {num_instances} items: "
            "batches repeat theirs"
        )
        findings.append(Finding("few_images", "warning", len(few), message, _some(few)))
    return findings
