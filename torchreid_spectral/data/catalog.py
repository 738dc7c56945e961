"""Where torchreid expects each dataset, and what to tell a user who has not got it."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

from torchreid_spectral import _compat
from torchreid_spectral.errors import InputError, UnknownNameError

__all__ = ["check_available", "missing_message"]

logger = logging.getLogger(__name__)

_MARKET_FOLDERS = "{bounding_box_train, query, bounding_box_test}/*.jpg"
_TREES = {
    "market1501": f"market1501/Market-1501-v15.09.15/{_MARKET_FOLDERS}",
    "dukemtmcreid": f"dukemtmc-reid/DukeMTMC-reID/{_MARKET_FOLDERS}",
    "cuhk03": "cuhk03/{cuhk03_release/cuhk-03.mat, "
    "cuhk03_new_protocol_config_labeled.mat, cuhk03_new_protocol_config_detected.mat}",
    "msmt17": "msmt17/MSMT17_V1/{train, test, list_train.txt, list_val.txt, list_query.txt, "
    "list_gallery.txt}  (or MSMT17_V2/{mask_train_v2, mask_test_v2, list_*.txt})",
    "mars": "mars/{bbox_train, bbox_test}/0001/0001C1T0001F001.jpg, mars/info/{train_name.txt, "
    "test_name.txt, tracks_train_info.mat, tracks_test_info.mat, query_IDX.mat}",
}
_SOURCES = {
    "market1501": "Its authors give it for research only; torchreid's download address has not "
    "answered for years. See the project page of Market-1501 (L. Zheng et al., ICCV 2015).",
    "dukemtmcreid": "Its authors withdrew it in 2019 and torchreid's download link is dead: it "
    "can only be used where you already have a copy.",
    "cuhk03": "Ask its authors (W. Li et al., CVPR 2014); the new protocol's split files come "
    "from Z. Zhong et al., CVPR 2017.",
    "msmt17": "Ask its authors (L. Wei et al., CVPR 2018); they give it under a release "
    "agreement.",
    "mars": "See the project page of MARS (L. Zheng et al., ECCV 2016); the folder info is "
    "info/ of the authors' MARS-evaluation repository.",
}
# torchreid would try these, make an empty folder and fail.
_DEAD_LINKS = frozenset({"market1501", "dukemtmcreid"})


def check_available(root: str | Path, names: Iterable[str], kind: str = "image") -> None:
    """Check that datasets are there, or can be fetched, before torchreid looks for them.

    Args:
        root: ``data.root``.
        names: Datasets to load.
        kind: ``image`` or ``video``.

    Raises:
        UnknownNameError: If torchreid has no dataset of that name.
        InputError: If a dataset is missing and torchreid cannot download it.
    """
    table = _compat.dataset_tables()[kind]
    names = sorted(names)
    for name in names:
        if name not in table:
            raise UnknownNameError(f"{kind} dataset", name, table)
    for name in names:
        folder = getattr(table[name], "dataset_dir", None)
        generated = getattr(table[name], "generated", False)
        url = getattr(table[name], "dataset_url", None)
        fetched = bool(url) and name not in _DEAD_LINKS
        if generated or not folder or _holds(Path(root).expanduser() / folder, empty=fetched):
            continue
        if not fetched:
            raise InputError(missing_message(name, root, folder))
        logger.info("%s is not in %s: torchreid will download it from %s", name, root, url)


def _holds(folder: Path, *, empty: bool) -> bool:
    """Say whether a dataset may be there; an empty folder is left by a download that failed."""
    return folder.exists() and (empty or not folder.is_dir() or any(folder.iterdir()))


def missing_message(name: str, root: str | Path, folder: str, detail: str = "") -> str:
    """Say what is missing, what should be where, how to get it, and what to try meanwhile.

    Args:
        name: Dataset.
        root: ``data.root``.
        folder: Its folder below the root.
        detail: What torchreid found amiss.

    Returns:
        A few lines.
    """
    place = Path(root).expanduser().resolve()
    return "\n".join(
        line
        for line in (
            f"Dataset {name} was not found in {place / folder}.",
            detail,
            f"Expected below {place}: {_TREES.get(name, folder + '/')}",
            f"How to get it: {_SOURCES.get(name, 'see torchreid, page Datasets of its docs.')}",
            "If you have it elsewhere: --root FOLDER, the folder that holds "
            f"{folder.split('/')[0]}/.",
            "To try the method meanwhile, the embedded dataset needs nothing: "
            "python tools/main.py --config-file configs/spectral_demo.yaml",
        )
        if line
    )
