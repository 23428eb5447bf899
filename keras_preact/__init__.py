"""Pre-activation ResNets (*Identity Mappings in Deep Residual Networks*, He et al. 2016) for Keras 3."""

from keras_preact.model import ResidualNetwork, relayout
from keras_preact.spec import (
    ORDERINGS,
    SHORTCUT_PARAMETERS,
    NetworkSpec,
    Ordering,
    ShortcutSpec,
    StemSpec,
)
from keras_preact.version import __version__
from keras_preact.zoo import (
    IMPLEMENTATIONS,
    ResNet,
    ResNet50,
    ResNet101,
    ResNet110,
    ResNet152,
    ResNet164,
    ResNet200,
    ResNet1001,
    build_network,
    cifar_spec,
    get_model,
    imagenet_spec,
    list_models,
)
