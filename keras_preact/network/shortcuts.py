"""h, the shortcut: how it is brought to the shape of F, and one function a panel of Fig. 2.

A panel maps (shortcut, branch) to (shortcut, branch); both come in with the same shape. The gates read the shortcut
as it comes, C_out -> C_out channels; the paper does not say what they read where the shape changes.
"""

from keras_preact.network.spec import ConvSpec


def match_shape(env, x, unit):
    """Returns the shortcut in the shape of F's output: x itself, projected, or subsampled and padded with zeros."""
    if unit.projects:
        return shortcut_conv(env, x, unit)
    if unit.changes_shape:
        return env.zero_pad(x, "shortcut_pad", unit.out_width, unit.strides)
    return x


def shortcut_conv(env, x, unit):
    """Returns a 1x1 convolution of the shortcut, with BN where the unit's spec asks for one."""
    x = env.conv(x, "shortcut_conv", unit.projection)
    return env.batch_norm(x, "shortcut_bn") if unit.shortcut_norm else x


def identity(env, shortcut, branch, unit):
    """Fig. 2(a): h(x) = x."""
    return shortcut, branch


def constant_scaling(env, shortcut, branch, unit):
    """Fig. 2(b), eq. (6): h(x) = lambda x, and F times `branch_scale`."""
    shortcut = env.affine(shortcut, "shortcut_scale", unit.shortcut.scale, 0.0)
    return shortcut, env.affine(branch, "branch_scale", unit.shortcut.branch_scale, 0.0)


def exclusive_gating(env, shortcut, branch, unit):
    """Fig. 2(c): (1 - g(x)) x and g(x) F, with g(x) = sigmoid(W_g x + b_g), element by element."""
    gate = _gate(env, shortcut, unit)
    branch = env.multiply(branch, gate, "branch_gated")
    return env.multiply(shortcut, _complement(env, gate), "shortcut_gated"), branch


def shortcut_only_gating(env, shortcut, branch, unit):
    """Fig. 2(d): (1 - g(x)) x, and F as it is."""
    return env.multiply(shortcut, _complement(env, _gate(env, shortcut, unit)), "shortcut_gated"), branch


def conv1x1(env, shortcut, branch, unit):
    """Fig. 2(e): h(x) = W_s x. Where the shape changes, the projection that matches it is this convolution."""
    return shortcut if unit.projects else shortcut_conv(env, shortcut, unit), branch


def dropout(env, shortcut, branch, unit):
    """Fig. 2(f): dropout on the output of the identity shortcut."""
    return env.dropout(shortcut, "shortcut_dropout", unit.shortcut.rate), branch


SHORTCUTS = {
    function.__name__: function
    for function in (identity, constant_scaling, exclusive_gating, shortcut_only_gating, conv1x1, dropout)
}


def _gate(env, x, unit):
    conv = ConvSpec(unit.out_width, kernel=1, bias=unit.shortcut.gate_bias)
    return env.sigmoid(env.conv(x, "gate_conv", conv), "gate")


def _complement(env, gate):
    return env.affine(gate, "gate_complement", -1.0, 1.0)
