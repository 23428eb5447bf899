"""A recipe from the size of a data set alone."""

from keras_preact.errors import check_integer
from keras_preact.training.recipe import Recipe

SOURCE = (
    "BiT-HyperRule: Kolesnikov et al. 2020 (arXiv 1912.11370) and github.com/google-research/big_transfer, adapted as "
    "keras_preact.recipe_for says"
)

# Training images below which a row holds: steps, steps of warm-up, steps before each fall of the learning rate, mixup.
RULE = {
    20_000: (500, 25, (200, 300, 400), 0.0),
    500_000: (10_000, 500, (3_000, 6_000, 9_000), 0.1),
    float("inf"): (20_000, 500, (6_000, 12_000, 18_000), 0.1),
}

BATCH, RATE = 64, 0.03


def recipe_for(count: int, steps: int | None = None) -> Recipe:
    """Returns the `Recipe` to fine-tune with on so many training images.

    The rule is BiT's: 500 steps on fewer than 20,000 images, 10,000 on fewer than 500,000, else 20,000; the learning
    rate warms up, and falls to a tenth after 30, 60 and 90 % of them, on few images after 40, 60 and 80 %; mixup of 0.1
    from 20,000 images on; no weight decay. What differs, as BiT's networks are large, have no BN, and saw millions of
    images:

    - The batch is of 64 images, not 512, or the largest power of two that the set holds, where BiT repeats images to
      fill a batch. A power of two goes into 2, 4 or 8 replicas.
    - The learning rate is 0.03, not 0.003, since networks with BN train at higher ones. In a run of 100 steps CIFAR
      networks did better with 0.1.
    - Warm-up is at a tenth of the rate, as this package's schedules of steps do it, while BiT's grows linearly. So it
      takes 25 of 500 steps, not 100.
    - No crops, mirrors or resizing: whether a mirrored image keeps its label is the user's to know.

    Args:
        count: Training images.
        steps: Steps of training, if not the rule's; warm-up and drops keep their shares of them.
    """
    count = check_integer("count", count)
    length, warmup, drops, mixup = next(row for bound, row in RULE.items() if count < bound)
    steps = length if steps is None else check_integer("steps", steps)
    batch = BATCH
    while batch > count:
        batch //= 2
    return Recipe(
        source=SOURCE,
        steps=steps,
        global_batch_size=batch,
        learning_rate=RATE,
        schedule="steps",
        warmup_steps=warmup * steps // length,
        drops=tuple(sorted({max(1, drop * steps // length) for drop in drops})),
        weight_decay=0.0,
        mixup=mixup,
    )
