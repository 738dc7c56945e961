r"""Any torchreid backbone with the spectral head.

Source: C. Luo, Y. Chen, N. Wang, Z. Zhang, *Spectral Feature Transformation for Person
Re-identification*, ICCV 2019.

The model is torchreid's own backbone, with the :class:`~.heads.SpectralHead` in the place of its
``classifier``: all other weights keep their names, so checkpoints load in both directions, and
``open_layers``, ``staged_lr`` and ``fixbase_epoch`` find the ``classifier`` they name.

What is walked is every feature that torchreid gives to a classifier, each on its own graph:

==================  ==============================================================  ==========
Backbone            Feature                                                         Walks
==================  ==============================================================  ==========
all not named here  the pooled feature, after the backbone's own ``fc`` if any      1
with ``stripes``    each part of the pooled feature                                 S or S+1
``pcb_p4, pcb_p6``  each stripe after its dimension reduction                       4, 6
``hacnn``           the global and the local feature                                2
``mlfn``            the fused feature (final map and factor signature)              1
``mudeep``          the output of its ``fc``                                        1
``resnet50mid``     the last feature beside the fused middle ones, concatenated     1
==================  ==============================================================  ==========
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from torch import Tensor, nn

from torchreid_spectral.errors import InputError
from torchreid_spectral.layers import FramePooling
from torchreid_spectral.losses import ClassScores
from torchreid_spectral.models.contract import output_and_feature
from torchreid_spectral.models.heads import SpectralHead
from torchreid_spectral.models.options import SpectralOptions
from torchreid_spectral.models.parts import StripedHead, set_pooling
from torchreid_spectral.models.stages import insert_attention
from torchreid_spectral.models.tracklets import frames_of, pool_frames, pooled_inputs

__all__ = ["SpectralNet", "check_open_layers", "make_spectral", "set_last_stride"]


class SpectralNet(nn.Module):
    """Mixin that gives a torchreid backbone torchreid's return contract with walked outputs.

    In eval mode: the feature ``(B, D)``. In training, with S walked features: for
    ``contract="softmax"`` the tuple of all plain outputs, then all walked ones; for
    ``"triplet"`` and ``"spectral"`` the pair of that tuple and the features. Outputs are
    ``(B, I)``: scaled cosines that a cross-entropy takes as logits; where only one is left
    (``supervision="plain"``, one feature) it comes without a tuple, as from a baseline. For
    ``"spectral"`` they are :class:`~torchreid_spectral.losses.ClassScores`, always in a tuple.

    Tracklets ``(B, F, 3, H, W)`` give the same with a node a tracklet: their frames' features are
    pooled by ``frame_pooling`` before heads and walk.
    """

    contract: str
    test_feature: str
    frame_pooling: FramePooling

    @property
    def heads(self) -> list[SpectralHead]:
        """The spectral heads, one a walked feature."""
        return [module for module in self.modules() if isinstance(module, SpectralHead)]

    def forward(self, images: Tensor, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        """Run the backbone and give its result in the order of the contract.

        Args:
            images: ``(B, 3, H, W)``, or tracklets ``(B, F, 3, H, W)``.
            *args: What the backbone knows beside them.
            **kwargs: What the backbone knows, such as ``return_featuremaps``.

        Returns:
            See the class.

        Raises:
            InputError: If the backbone gives something else than outputs and features in training.
            RuntimeError: If DataParallel runs it on several GPUs.
        """  # noqa: DOC502
        if getattr(self, "_is_replica", False) and (self.training or hasattr(self, "attention")):
            raise RuntimeError(
                "DataParallel would cut the batch graph into one part a GPU, and leaves attention "
                "blocks on the first. Start one process a GPU: torchrun --nproc_per_node=N "
                "tools/main.py ..., or use one GPU."
            )
        result = self._run(images, *args, **kwargs)
        if not self.training:
            return self._test_output(result) if self.test_feature == "bottleneck" else result
        if isinstance(result, Tensor) and result.dim() == 4:  # feature maps were asked for
            return result
        return self.in_order(*output_and_feature(result, self.heads, type(self).__bases__[1]))

    def in_order(self, outputs: Any, features: Any) -> Any:  # noqa: ANN401
        """Put what the backbone gives in training into the order of the contract.

        Args:
            outputs: Of the head, or of all heads.
            features: Of the backbone.

        Returns:
            See the class.
        """
        ordered = _by_branch(outputs)
        alone = len(ordered) == 1 and self.contract != "spectral"
        logits = ordered[0] if alone else ordered
        return logits if self.contract == "softmax" else (logits, features)

    def _run(self, images: Tensor, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        """Run the backbone; of tracklets, with the frames pooled in all that it gives."""
        if images.dim() != 5:
            return super().forward(images, *args, **kwargs)
        length = images.shape[1]
        with (
            frames_of(getattr(self, "attention", ()), length),
            pooled_inputs(self.heads, self.frame_pooling, length),
        ):
            result = super().forward(images.flatten(0, 1), *args, **kwargs)
        if not self.training or isinstance(result, Tensor):
            return pool_frames(result, self.frame_pooling, length)
        outputs, features = result
        return outputs, pool_frames(features, self.frame_pooling, length)

    def _test_output(self, feature: Tensor) -> Tensor:
        if feature.dim() != 2:  # feature maps were asked for
            return feature
        classifier: Any = self.classifier
        embedded: Tensor = classifier.embed(feature)
        return embedded

    def __reduce__(self) -> tuple[Any, ...]:
        """Let pickle rebuild the class, which it could not find by name."""
        state = self.__dict__.copy()
        state.pop("_compiled_call_impl", None)  # runs this model's weights, in copies too
        return _rebuild, (type(self).__bases__[1],), state


def make_spectral(
    backbone: nn.Module,
    *,
    contract: str = "softmax",
    **options: Any,  # noqa: ANN401 (see SpectralOptions)
) -> SpectralNet:
    """Turn a torchreid model into a spectral one, in place.

    Args:
        backbone: A model of torchreid, built with ``loss="triplet"``, so that it gives its
            features in training.
        contract: ``softmax``, ``triplet`` or ``spectral``, see :class:`SpectralNet`.
        **options: Of :class:`~torchreid_spectral.models.options.SpectralOptions`.

    Returns:
        The same object, now a :class:`SpectralNet`.

    Raises:
        ValueError: If an option is out of range, or the backbone was built with another loss.
        TypeError: If the backbone has no linear classifier to replace.
    """  # noqa: DOC502
    chosen = SpectralOptions.of(**options)
    if contract not in ("softmax", "triplet", "spectral"):
        raise ValueError(f"loss must be softmax, triplet or spectral, got {contract!r}.")
    built = getattr(backbone, "loss", "triplet")
    if built != "triplet":
        raise ValueError(
            f"The backbone must be built with loss='triplet', got one with loss={built!r}: it "
            "would not give its features in training."
        )

    def head(classifier: nn.Linear) -> SpectralHead:
        dim = classifier.in_features
        return SpectralHead(dim, classifier.out_features, walk=chosen.walk(dim), **chosen.head())

    parts = set_pooling(
        backbone,
        pooling=chosen.pooling,
        stripes=chosen.stripes,
        global_part=chosen.global_part,
    )
    insert_attention(backbone, chosen.attention)
    _replace_classifiers(backbone, head, parts)
    if chosen.last_stride is not None:
        set_last_stride(backbone, chosen.last_stride)
    name = type(backbone).__name__
    backbone.__class__ = _spectral_class(type(backbone))  # type: ignore[arg-type]
    model: SpectralNet = backbone  # type: ignore[assignment]
    model.contract, model.test_feature = contract, chosen.test_feature
    model.frame_pooling = FramePooling(chosen.pooling_method, chosen.frame_temperature)
    for each in model.heads:
        each.gives_scores = contract == "spectral"
    classifier = getattr(backbone, "classifier", None)
    if model.test_feature == "bottleneck" and not hasattr(classifier, "embed"):
        raise ValueError(
            f"test_feature='bottleneck' does not fit {name}: its test feature is not what its "
            f"{len(model.heads)} classifiers see in training. Use 'pooled'."
        )
    return model


def check_open_layers(network: nn.Module, open_layers: Sequence[str]) -> None:
    """Check that the heads of a spectral model are trained while other layers rest.

    Args:
        network: Any model; others than spectral ones may rest as they like.
        open_layers: Names of the layers that are trained.

    Raises:
        InputError: If a head would rest.
    """
    if not isinstance(network, SpectralNet):
        return
    for name, layer in network.named_children():
        walks = any(isinstance(module, SpectralHead) for module in layer.modules())
        if walks and name not in open_layers:
            raise InputError(
                f"open_layers {list(open_layers)} leaves the {name} of a spectral model in eval "
                f"mode, where it does not walk. Name {name} too."
            )


def set_last_stride(backbone: nn.Module, stride: int) -> None:
    """Set the stride of a ResNet's last stage; models without a ``layer4`` are left alone.

    In a block that has stride 1 the 3 x 3 convolution gets it, and the one beside the block.

    Args:
        backbone: A model of torchreid.
        stride: 1 or 2.

    Raises:
        ValueError: If the stride is neither.
    """
    if stride not in (1, 2):
        raise ValueError(f"last_stride must be 1 or 2, got {stride}.")
    stage = getattr(backbone, "layer4", None)
    if not isinstance(stage, nn.Sequential):
        return
    convolutions = [module for module in stage[0].modules() if isinstance(module, nn.Conv2d)]
    chosen = [each for each in convolutions if each.stride != (1, 1)]
    if not chosen:
        chosen = [each for each in convolutions if each.kernel_size == (3, 3)][:1]
        beside = getattr(stage[0], "downsample", None)
        chosen += [each for each in beside or () if isinstance(each, nn.Conv2d)]
    for convolution in chosen:
        convolution.stride = (stride, stride)


def _replace_classifiers(backbone: Any, head: Any, parts: int) -> None:  # noqa: ANN401
    """Put heads where the backbone has linear classifiers, under the same names."""
    if hasattr(backbone, "classifier_global"):  # HACNN
        for name in ("classifier_global", "classifier_local"):
            if hasattr(backbone, name):
                setattr(backbone, name, head(getattr(backbone, name)))
        return
    classifier = getattr(backbone, "classifier", None)
    if isinstance(classifier, nn.Linear):
        striped = [head(classifier) for _ in range(parts)]
        backbone.classifier = striped[0] if parts == 1 else StripedHead(striped)
    elif isinstance(classifier, nn.ModuleList):
        backbone.classifier = nn.ModuleList([head(linear) for linear in classifier])
    else:
        raise TypeError(
            f"{type(backbone).__name__} has no linear classifier to replace: "
            f"classifier is {type(classifier).__name__}."
        )


def _by_branch(outputs: Any) -> tuple[Any, ...]:  # noqa: ANN401
    """Flatten what the heads gave, per feature (plain, walked), to all plain, then all walked."""
    if isinstance(outputs, Tensor):
        return (outputs,)
    if all(isinstance(output, (Tensor, ClassScores)) for output in outputs):
        return tuple(outputs)
    return tuple(output for branch in zip(*outputs) for output in branch)


@cache
def _spectral_class(backbone: type[nn.Module]) -> type[nn.Module]:
    """Derive the spectral class of a backbone's class, as ``torch.nn.utils.parametrize`` does."""
    body: dict[str, Any] = {"__doc__": SpectralNet.__doc__, "__module__": __name__}
    return type(f"Spectral{backbone.__name__}", (SpectralNet, backbone), body)


def _rebuild(backbone: type[nn.Module]) -> nn.Module:
    cls = _spectral_class(backbone)  # type: ignore[arg-type]
    model: nn.Module = cls.__new__(cls)
    return model
