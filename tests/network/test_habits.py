"""What people do with `keras.applications.ResNet50V2` works with ours in both layouts, or is refused in a sentence."""

import habits
import pytest

KINDS = ("keras.applications", "layers", "stacked")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize` method")
@pytest.mark.filterwarnings("ignore:.*The structure of `inputs` doesn't match")
@pytest.mark.filterwarnings("ignore:Skipping nested container")
@pytest.mark.filterwarnings("ignore:A total of .* objects could not be loaded")
def test_habits_hold(kind, tmp_path):
    case = habits.Case(kind, tmp_path)
    wrong = [problem for name in habits.HABITS if (problem := habits.attempt(case, name))]
    print(f"{kind}: {len(habits.HABITS) - len(wrong)} of {len(habits.HABITS)}")
    assert len(habits.HABITS) >= 60
    assert not wrong, "\n".join(wrong)
