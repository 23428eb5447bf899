"""What a network is: the tables of Fig. 2 and Fig. 4, and the errors of a spec that cannot be."""

import ast
import dataclasses
import inspect
import json
import math

import pytest

from keras_preact.network.families import IMPLEMENTATIONS, cifar_spec, imagenet_spec
from keras_preact.network.shortcuts import SHORTCUT_PARAMETERS, ShortcutSpec
from keras_preact.network.spec import NetworkSpec, StemSpec
from keras_preact.network.unit_spec import ORDERINGS, Ordering


@pytest.mark.parametrize("row", [("B", "R", "R"), ("", "", ""), ("BR", "BR", ""), ("X", "B", "R")])
def test_a_wrong_row_of_figure_4_is_refused_when_it_is_made(row):
    with pytest.raises(ValueError, match="exactly one B and one R"):
        Ordering(*row)


def test_a_name_means_the_papers_value():
    assert ShortcutSpec("constant_scaling") == ShortcutSpec("constant_scaling", scale=0.5, branch_scale=0.5)
    assert ShortcutSpec("exclusive_gating").gate_bias == ShortcutSpec("shortcut_only_gating").gate_bias == -6.0
    assert ShortcutSpec("dropout").rate == 0.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "gated"}, "shortcut.*Received: shortcut='gated'.*Nearest: \"\\w+_gating\""),
        ({"name": "identity", "gate_bias": -6.0}, "gate_bias.*takes no parameters.*-6.0"),
        ({"name": "exclusive_gating", "gate_bias": math.nan}, "gate_bias.*finite.*nan"),
        ({"name": "dropout", "rate": -0.1}, r"rate.*\[0, 1\).*-0.1"),
        ({"name": "dropout", "rate": 1.5}, r"rate.*\[0, 1\).*1.5"),
        ({"name": "constant_scaling", "scale": "half"}, "scale.*finite number.*half"),
    ],
)
def test_a_wrong_shortcut_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        ShortcutSpec(**arguments)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"ordering": "pre-act"}, "ordering.*Received: ordering='pre-act'.*Nearest: \"preactivation\""),
        ({"shortcut": "gated"}, "shortcut.*gated.*Nearest"),
        ({"unit": "wide"}, "unit.*basic.*wide"),
        ({"units": 3}, "units.*sequence.*3"),
        ({"units": (3, 0)}, "units.*at least 1.*0"),
        ({"widths": (8,)}, "widths.*one number per stage, 2"),
        ({"widths": (16, 4), "widening": "zero_pad"}, "widths.*growing.*projection"),
        ({"widening": "pad"}, 'widening.*Nearest: "zero_pad"'),
        ({"stride_on": "2x2"}, "stride_on.*1x1"),
        ({"conv_bias": ("first",)}, "conv_bias.*stem"),
        ({"bn_epsilon": -1.0}, "bn_epsilon"),
        ({"bn_momentum": 1.0}, "bn_momentum"),
        ({"stochastic_depth": 1.0}, r"stochastic_depth.*\[0, 1\)"),
        ({"stochastic_depth": (0.1, 0.2)}, r"stochastic_depth.*one per unit \(4\)"),
        ({"stochastic_depth": 0.1, "shortcut": "none"}, "stochastic_depth.*plain network"),
        ({"stem": {"activates": False}, "ordering": "original"}, "stem.activates.*original"),
        ({"stem": {"kernel": 4}}, "stem.kernel.*odd.*Nearest: 5"),
        ({"stem": {"pool": "valid"}}, "stem.pool.*negative_infinity"),
        ({"stem": {"size": 3}}, "StemSpec field.*size"),
        ({"stem": {"activates": "false"}}, "stem.activates.*True or False.*'false'"),
        ({"first_unit_activates": "false"}, "first_unit_activates.*True or False.*'false'"),
        ({"project_first_units": 1}, "project_first_units.*True or False.*1"),
        ({"shortcut_norm": "none"}, "shortcut_norm.*True or False.*'none'"),
        ({"bn_synchronized": None}, "bn_synchronized.*True or False.*None"),
    ],
)
def test_a_wrong_field_is_refused_by_name(fields, message):
    with pytest.raises(ValueError, match=message):
        NetworkSpec(**{"units": (2, 2), "widths": (4, 8), **fields})


def test_places_of_biases_have_no_order():
    assert NetworkSpec((2, 2), (4, 8), conv_bias=("last", "stem")) == NetworkSpec(
        (2, 2), (4, 8), conv_bias=["stem", "last"]
    )


def test_an_unknown_field_is_an_error_that_lists_the_fields():
    with pytest.raises(ValueError, match=r'"stride_on".*Nearest: "strides"'):
        cifar_spec(29).replace(stride="3x3")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: cifar_spec(163), r"depth.*6n \+ 2.*9n \+ 2.*Received: depth=163.*Nearest: 158, 164"),
        (lambda: cifar_spec(163, unit="bottleneck"), r"depth.*9n \+ 2.*163.*Nearest: 155, 164"),
        (lambda: cifar_spec(2), "depth.*Nearest: 8"),
        (lambda: cifar_spec(1.5), "depth.*whole number.*1.5"),
        (lambda: imagenet_spec([50]), r"depth.*whole number.*\[50\]"),
        (lambda: imagenet_spec(151), "depth.*50, 101, 152, 200.*151.*Nearest: 152"),
        (lambda: imagenet_spec(50, units=(1, 1, 1, 1)), "depth.*14.*50"),
    ],
)
def test_a_depth_that_cannot_be_names_the_nearest(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("depth", "unit", "units"),
    [(110, "basic", 18), (164, "bottleneck", 18), (1001, "bottleneck", 111), (20, "basic", 3)],
)
def test_a_depth_means_the_papers_units(depth, unit, units):
    spec = cifar_spec(depth)
    assert (spec.unit, spec.units, spec.depth) == (unit, (units,) * 3, depth)


def test_one_layer_per_shortcut_has_twice_the_units():
    spec = cifar_spec(110, unit="single")
    assert spec.units == (36, 36, 36)
    assert spec.depth == 110


@pytest.mark.parametrize(
    "spec", [cifar_spec(164, shortcut="dropout"), imagenet_spec(200), cifar_spec(29, stochastic_depth=0.5)]
)
def test_a_spec_survives_json(spec):
    assert NetworkSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


def test_every_combination_of_the_tables_is_a_spec():
    for ordering in ORDERINGS:
        for shortcut in SHORTCUT_PARAMETERS:
            assert len(cifar_spec(29, ordering=ordering, shortcut=shortcut).stages) == 3
    assert len(IMPLEMENTATIONS) == 13


def test_stochastic_depth_rises_linearly_to_the_last_unit():
    rates = cifar_spec(29, stochastic_depth=0.9).drop_rates
    assert rates == pytest.approx([0.1 * unit for unit in range(1, 10)])


def test_the_stems_of_the_specs_differ_only_where_they_say():
    spec = imagenet_spec(50, **IMPLEMENTATIONS["keras_applications"])
    assert spec.stem == StemSpec(width=64, kernel=7, strides=2, activates=False, pool="zero")


def test_type_checkers_are_told_of_every_field_and_its_default():
    nodes = ast.walk(ast.parse(inspect.getsource(NetworkSpec)))
    (told,) = [node.args for node in nodes if isinstance(node, ast.FunctionDef) and node.name == "__init__"]
    names = [argument.arg for argument in told.args[1:]]
    assert names == [field.name for field in dataclasses.fields(NetworkSpec)]
    known = {"StemSpec": StemSpec, "ShortcutSpec": ShortcutSpec}
    defaults = [eval(ast.unparse(default), known) for default in told.defaults]
    assert NetworkSpec((1,), (4,), *defaults) == NetworkSpec((1,), (4,))
