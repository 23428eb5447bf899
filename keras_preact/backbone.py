"""Backbones: a network that returns the signals of its stages."""

from collections.abc import Sequence
from typing import Any

from keras_preact.errors import argument_error, check_arguments
from keras_preact.network.checks import check_features
from keras_preact.network.model import ResidualNetwork
from keras_preact.zoo import ARGUMENTS, FOREIGN, get_model


def ResNetFeatures(
    model: str | ResidualNetwork, features: str | Sequence[str], tap: str | Sequence[str] = "sum", **keywords: Any
) -> ResidualNetwork:
    """Returns the backbone of a network: the signals of its stages, as `features` and `tap` in `build_network` say.

    Args:
        model: The name of a network, built with `keywords`, or a network that is built, whose weights are copied.
        features: Stages, e.g. `("stage2", "stage3")`.
        tap: `"sum"` or `"activated"`, for all or one for each.
        **keywords: As in `ResNet164`; only with a name.

    Raises:
        ValueError: If an argument is not allowed.
    """
    if features is None:
        raise argument_error("features", "stages, one at least", features)
    if not isinstance(model, ResidualNetwork):
        check_arguments("ResNetFeatures", keywords, ("family", *ARGUMENTS), FOREIGN)
        return get_model(model, features=features, tap=tap, **keywords)
    if keywords:
        hint = (
            'For images of any size: ResNetFeatures("resnet164", ["stage3"], weights=..., input_shape=(None, None, 3)).'
        )
        raise argument_error("model", "the name of a network if there are other keywords", model.name, hint)
    return model.with_features(check_features(model.spec, features, tap) or {})
