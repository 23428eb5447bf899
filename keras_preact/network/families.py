"""The families of networks as functions of the depth that give a `NetworkSpec`, and how other codebases' differ."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeGuard

from keras_preact.errors import argument_error, check_choice, check_fields, check_integer
from keras_preact.network.spec import NetworkSpec, StemSpec
from keras_preact.network.unit_spec import UNIT_KINDS

CIFAR_WIDTHS = (16, 32, 64)
IMAGENET_WIDTHS = (64, 128, 256, 512)
IMAGENET_STEM = StemSpec(width=64, kernel=7, strides=2, pool="negative_infinity")

# Units per stage of the ImageNet depths in use; 18 and 34 are of basic units.
IMAGENET_UNITS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
    200: (3, 24, 36, 3),
}

# How other codebases' graphs differ from ours, as fields of `NetworkSpec`. TF-slim and keras.applications put the
# stride into the 3x3 of a stage's *last* unit, which in inference is exactly the stride on the next unit's first 1x1.
_BARE_STEM = {"activates": False}
_SLIM_BIASES = ("stem", "shortcut", "last")
IMPLEMENTATIONS: dict[str, dict[str, Any]] = {
    "fb_resnet_torch": {},  # HEAD; the released resnet-200.t7 is the next
    "fb_resnet_torch_released": dict(
        first_unit_activates=True,
        widening_reads="raw",
        shortcut_norm=True,
        conv_bias=("stem", "branch", "last", "shortcut"),
    ),
    "slim": dict(stem={**_BARE_STEM, "pool": "same"}, stride_on="1x1", conv_bias=_SLIM_BIASES, bn_momentum=0.997),
    "keras_applications": dict(
        stem={**_BARE_STEM, "pool": "zero"},
        stride_on="1x1",
        conv_bias=_SLIM_BIASES,
        bn_momentum=0.99,
        bn_epsilon=1.001e-5,
    ),
    "tf_official": dict(stem={**_BARE_STEM, "pool": "same"}, project_first_units=True, bn_momentum=0.997),
    "mxnet": dict(stem={"input_norm": "center"}, first_unit_activates=True, project_first_units=True, bn_epsilon=2e-5),
    "gluon": dict(stem={"input_norm": "plain"}, first_unit_activates=True),
    "gluon_cifar": dict(stem={**_BARE_STEM, "input_norm": "plain"}, widening="projection", widening_reads="raw"),
    "timm": dict(stem=_BARE_STEM),
    "keras_hub": dict(stem=_BARE_STEM),
    "osmr": dict(first_unit_activates=True, stride_on="1x1"),
    "osmr_b": dict(first_unit_activates=True),
    "osmr_cifar": dict(stem=_BARE_STEM, widening="projection", stride_on="3x3"),
}


def cifar_spec(depth: int, unit: str | None = None, **fields: Any) -> NetworkSpec:
    """Returns the `NetworkSpec` of a CIFAR network: three stages of 16, 32 and 64 inner channels, 32x32 to 8x8.

    Args:
        depth: 6n + 2 of basic units, 9n + 2 of bottleneck units, or 3n + 2 of single ones.
        unit: The kind of unit. If None, basic up to depth 110 where 6n + 2 fits, else bottleneck where 9n + 2 fits.
        **fields: Other fields of `NetworkSpec`; `stem` may be a dict of the fields that differ.

    Raises:
        ValueError: If no such network exists, the nearest depths are named; or `units` are of another depth.
    """
    depth = check_integer("depth", depth)
    kinds = {kind: 3 * len(kernels) for kind, (kernels, _) in UNIT_KINDS.items()}
    if unit is None:
        order = ("basic", "bottleneck") if depth <= 110 else ("bottleneck", "basic")
    else:
        order = (check_choice("unit", unit, kinds),)
    for kind in order:
        count, rest = divmod(depth - 2, kinds[kind])
        if count >= 1 and rest == 0:
            defaults = {"widening": "projection" if kind == "bottleneck" else "zero_pad"}
            return _spec(depth, (count,) * 3, CIFAR_WIDTHS, kind, StemSpec(), {**defaults, **fields})
    rules = " or ".join(f"{kinds[kind]}n + 2 ({kind} units)" for kind in sorted(order, key=kinds.__getitem__))
    raise argument_error("depth", rules, depth, f"Nearest: {_nearest_depths(depth, [kinds[k] for k in order])}.")


def imagenet_spec(
    depth: int | None = None, units: Sequence[int] | None = None, unit: str | None = None, **fields: Any
) -> NetworkSpec:
    """Returns the `NetworkSpec` of an ImageNet network: four stages of 64 to 512 inner channels, from a 7x7 stem.

    Args:
        depth: A key of `IMAGENET_UNITS`; may be left out if `units` is given.
        units: Units of the four stages. A network of bottleneck units is 3 * sum(units) + 2 deep, of basic 2 * sum + 2.
        unit: The kind of unit; basic at depths 18 and 34, else bottleneck, if None.
        **fields: Other fields of `NetworkSpec`; `stem` may be a dict of the fields that differ.

    Raises:
        ValueError: If no such network exists, or `depth` and `units` contradict each other.
    """
    if units is None:
        depth = check_integer("depth", depth)
        if depth not in IMAGENET_UNITS:
            near = min(IMAGENET_UNITS, key=lambda known: abs(known - depth))
            listed = ", ".join(map(str, IMAGENET_UNITS))
            hint = f"Nearest: {near}. For another, pass units=(a, b, c, d): it is 3 * (a + b + c + d) + 2 deep."
            raise argument_error("depth", f"one of {listed}", depth, hint)
        units = IMAGENET_UNITS[depth]
    unit = unit or ("basic" if depth in (18, 34) else "bottleneck")
    return _spec(depth, units, IMAGENET_WIDTHS, unit, IMAGENET_STEM, {"stride_on": "3x3", **fields})


def units_of_depth(spec: NetworkSpec, depth: int) -> tuple[int, ...]:
    """Returns the units of each stage that make a `NetworkSpec` so deep: of CIFAR's, alike; of ImageNet's, as in use.

    Raises:
        ValueError: If there is no such depth; the nearest are named.
    """
    depth, layers = check_integer("depth", depth), len(UNIT_KINDS[spec.unit][0])
    if len(spec.units) == len(IMAGENET_WIDTHS):
        known = {layers * sum(units) + 2: units for units in IMAGENET_UNITS.values()}
        if depth not in known:
            raise argument_error("depth", f"one of {', '.join(map(str, sorted(known)))}", depth, "Or pass units=.")
        return known[depth]
    step = layers * len(spec.units)
    count, rest = divmod(depth - 2, step)
    if rest or count < 1:
        hint = f"Nearest: {_nearest_depths(depth, [step])}. For other units per stage pass units=."
        raise argument_error("depth", f"{step}n + 2 ({spec.unit} units)", depth, hint)
    return (count,) * len(spec.units)


def _spec(depth, units, widths, unit, stem, fields):
    """Returns the `NetworkSpec` of a family, some fields changed; a `ValueError` if it is not so deep."""
    spec = changed(NetworkSpec(units, widths, unit, stem=stem), fields)
    if depth not in (None, spec.depth):
        raise argument_error("depth", f"{spec.depth} with units={spec.units} of kind {unit!r}", depth)
    return spec


def changed(spec: NetworkSpec, fields: Mapping[str, Any]) -> NetworkSpec:
    """Returns `spec` with other fields; of `stem`, a dict, with other fields of the stem."""
    stem = fields.get("stem", {})
    if isinstance(stem, dict):
        check_fields(StemSpec, stem)
        stem = StemSpec(**{**vars(spec.stem), **stem})
    return spec.replace(**{**fields, "stem": stem})


def _nearest_depths(depth, steps):
    below = max((2 + step * ((depth - 2) // step) for step in steps), default=0)
    above = min(2 + step * max(1, -(-(depth - 2) // step)) for step in steps)
    return ", ".join(str(near) for near in sorted({below, above}) if near > 2)


FAMILIES: dict[str, tuple[Callable[..., NetworkSpec], int, int]] = {
    "cifar": (cifar_spec, 32, 10),
    "imagenet": (imagenet_spec, 224, 1000),
}  # spec, input side, classes

# The networks that have a name of their own: the family, and what its function is to be given.
NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "resnet110": ("cifar", {"depth": 110, "unit": "basic"}),
    "resnet164": ("cifar", {"depth": 164, "unit": "bottleneck"}),
    "resnet1001": ("cifar", {"depth": 1001, "unit": "bottleneck"}),
    "resnet50": ("imagenet", {"depth": 50}),
    "resnet101": ("imagenet", {"depth": 101}),
    "resnet152": ("imagenet", {"depth": 152}),
    "resnet200": ("imagenet", {"depth": 200}),
}


def family_of(depth: int | None, unit: str | None = None) -> str:
    """Returns the name of the family that has a depth.

    Args:
        depth: Weight layers.
        unit: The kind of unit, if it is known.

    Raises:
        ValueError: If no family has it, or more than one.
    """
    depth = check_integer("depth", depth)
    found = [family for family, (make_spec, _, _) in FAMILIES.items() if _exists(make_spec, depth, unit)]
    if not found:
        cifar_spec(depth, unit)  # whose error names the nearest depths
    if len(found) > 1:
        choices = " or ".join(f'"{family}"' for family in found)
        raise argument_error("family", f"{choices}, which both have a network of {depth} layers", None)
    return found[0]


def _exists(make_spec, depth, unit):
    try:
        make_spec(depth, unit=unit)
    except ValueError:
        return False
    return True


def key_of(family: str, depth: int, unit: str | None = None) -> tuple[str, dict[str, str]]:
    """Returns (name, options) by which `get_model` builds a depth of a family, whichever the bare name stands for."""
    key = f"resnet{depth}"
    named = NETWORKS[key][0] if key in NETWORKS else family_of(depth, unit)
    return key, {} if named == family else {"family": family}


def is_model_name(name: object) -> TypeGuard[str]:
    """Returns whether `name` is made as a network's, `resnet164` in any case, not as that of trained weights."""
    return isinstance(name, str) and re.fullmatch(r"resnet\d+", name.lower()) is not None


def model_key(name: object, unit: str | None = None) -> str:
    """Returns `name`, in any case, as `get_model` takes it; raises a `ValueError` if there is no such network.

    Args:
        name: What was given as the name of a network.
        unit: The kind of unit, if it is known: some depths exist of that kind alone.
    """
    key = name.lower() if isinstance(name, str) else name
    if is_model_name(key) and key not in NETWORKS:
        family_of(int(key[6:]), unit)
        return key
    return check_choice("model", key, NETWORKS, "Or resnet<depth>, of a depth that a family has.")


def chosen(name: object, family: str | None, unit: str | None = None) -> tuple[str, dict[str, Any]]:
    """Returns the family of a name, and the arguments of its function that choose the network."""
    key = model_key(name, unit)
    if key in NETWORKS and family in (None, NETWORKS[key][0]):
        return NETWORKS[key]
    which: dict[str, Any] = {"depth": int(key[6:])} | ({} if unit is None else {"unit": unit})
    return family_of(**which) if family is None else check_choice("family", family, FAMILIES), which


def model_family(name: object, unit: str | None = None) -> str:
    """Returns `"cifar"` or `"imagenet"`, the family that `get_model` takes `name` from."""
    return chosen(name, None, unit)[0]


def network_spec(name: object, family: str | None = None, **fields: Any) -> NetworkSpec:
    """Returns the `NetworkSpec` of the network that `get_model(name, family=family)` builds, some fields changed."""
    family, which = chosen(name, family, fields.get("unit"))
    return FAMILIES[family][0](**{**which, **fields})
