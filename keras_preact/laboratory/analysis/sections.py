"""What the report says beside each picture: a heading, the equation that it shows, and how to read it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Section:
    """Describes a picture's place in the report; `equation` and `text` are HTML."""

    title: str
    equation: str
    text: str


SECTIONS = {
    "signals": Section(
        "Two paths through a unit",
        "x<sub>l+1</sub> = f(h(x<sub>l</sub>) + F(x<sub>l</sub>)) (eqs. 1, 2)",
        "A unit adds what its branch F computes to what its shortcut h carries. With an identity on the shortcut"
        " the signal is the sum of all branches before, so it grows slowly and each further branch changes it less."
        " Dotted lines: a new stage begins, where a projection or a subsampling stands in for the identity.",
    ),
    "gradients": Section(
        "Two ways back for the gradient",
        "∂E/∂x<sub>l</sub> = ∂E/∂x<sub>L</sub> + ∂E/∂x<sub>L</sub> · ∂/∂x<sub>l</sub> Σ F(x<sub>i</sub>) (eq. 5)",
        "The direct term comes from the end of the stage, L, on the shortcuts alone; the branch term is all the"
        " rest. On identity shortcuts the direct term is one flat line in each stage, whatever the weights are: a"
        " gradient can get small only if the branch term happens to cancel it on every image of a batch.",
    ),
    "factors": Section(
        "What stands on the shortcut multiplies up",
        "∂E/∂x<sub>l</sub> = ∂E/∂x<sub>L</sub> · ( ∏ λ<sub>i</sub> + … ) (eqs. 7, 8)",
        "Anything on the shortcut gives the direct term a factor in every unit, and the factors of all units behind"
        " are multiplied: 0.9 over 54 units is 0.003. Above: each unit's factor, measured as the ratio of the"
        " direct term's norms on both sides of h, and of f; it dips where a unit changes the shape. Below: the"
        " product over the units that keep the shape; for identities it is 1.",
    ),
    "openness": Section(
        "What ReLUs cut and gates let through",
        "f(y) = max(y, 0); h(x) = (1 - g(x)) · x",
        "In the original unit a ReLU stands after the addition: the negative part of the sum is lost, and with it"
        " the gradient. A gate is open for the shortcut where 1 - g is near 1; its bias at the start decides that.",
    ),
    "deletions": Section(
        "The network without one unit",
        "x<sub>l+1</sub> := x<sub>l</sub>",
        "Each point is the loss with one unit deleted, minus that with all of them, on the same images. A long"
        " residual network hardly notices: what the other branches add is still there. In a plain network every"
        " unit is a link of one chain. Before training there is little to lose, so look at this for a trained"
        " network.",
    ),
    "depths": Section(
        "The gradient against depth",
        "|∂E/∂x<sub>l</sub>| / |∂E/∂x<sub>end</sub>|",
        "Networks of the same units, with no shortcut, with the original unit and with pre-activation, before and"
        " after {steps} training steps on the digits. In a plain network with batch normalisation the gradient grows by"
        " a constant factor a layer on its way back, so exponentially with depth: the first layers are told nothing"
        " useful, or their weights overflow in the first steps, and no gradient is left. With shortcuts it grows"
        " far more slowly.",
    ),
    "shortcuts": Section(
        "The shortcuts of Fig. 2, side by side",
        "x<sub>l+1</sub> = f(h(x<sub>l</sub>) + F(x<sub>l</sub>)) (Table 1)",
        "An untrained network of {depth} layers with each shortcut of Table 1; beside its name stands the test"
        " error on CIFAR-10 that the paper reports for 110 layers, or “fail” above 20 %. Blue is the product of the"
        " shortcut factors of all units behind (over units that keep the shape). Where it falls, the direct term is"
        " gone. A 1x1 convolution contains the identity but starts far from it. Dropout here divides by 1 - rate,"
        " so its mean factor is 1, but it draws another mask in every unit: no element is spared by fifty of them.",
    ),
    "degradation": Section(
        "The degradation problem",
        "deeper, yet a higher <em>training</em> loss",
        "The same networks' loss on the digits after {steps} steps of the same recipe. A plain network that is made"
        " deeper trains worse, although it could copy the shallower one: it is harder to optimise, not over-fitted."
        " Under pre-activation depth costs little. A run this short also shows that the original unit, deep, wants"
        " a gentler start; the paper gives it 400 steps at a tenth of the learning rate.",
    ),
}
