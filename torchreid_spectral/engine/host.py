"""What torchreid's ``Engine`` has, for type checkers: the classes before it rely on no more.

torchreid carries no types, and which of its two layouts is there is known only when it is
imported; when the program runs :class:`TorchreidEngine` is nothing but ``object``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
    from torch.utils.tensorboard import SummaryWriter

    from torchreid_spectral.data.loading import EpochLoader

    class TorchreidEngine:
        """The part of torchreid's ``Engine`` that is used here."""

        datamanager: Any
        train_loader: EpochLoader
        test_loader: dict[str, dict[str, EpochLoader]]
        use_gpu: bool
        writer: SummaryWriter | None
        start_epoch: int
        max_epoch: int
        epoch: int  # zero-based
        batch_idx: int
        num_batches: int
        model: nn.Module
        optimizer: torch.optim.Optimizer
        scheduler: Any
        _models: dict[str, nn.Module]
        _optims: dict[str, torch.optim.Optimizer]
        _scheds: dict[str, Any]

        def __init__(self, *args: Any, **kwargs: Any) -> None: ...
        def register_model(
            self, name: str, model: nn.Module, optim: torch.optim.Optimizer, sched: Any
        ) -> None: ...
        def get_model_names(self, names: Any = None) -> list[str]: ...
        def set_model_mode(self, mode: str) -> None: ...
        def update_lr(self) -> None: ...
        def two_stepped_transfer_learning(
            self, epoch: int, fixbase_epoch: int, open_layers: Any
        ) -> None: ...
        def save_model(
            self, epoch: int, rank1: float, save_dir: str, is_best: bool = False
        ) -> None: ...
        def test(self, *args: Any, **kwargs: Any) -> Any: ...
        def compute_loss(self, criterion: Any, outputs: Any, targets: Tensor) -> Tensor: ...
        def extract_features(self, input: Tensor) -> Tensor: ...
        def parse_data_for_train(self, data: Mapping[str, Any]) -> tuple[Tensor, Tensor]: ...
        def parse_data_for_eval(self, data: Mapping[str, Any]) -> tuple[Tensor, Any, Any]: ...

else:
    TorchreidEngine = object
