import pytest

from surefield import ScoreQuantity
from surefield.errors import ConfigError
from surefield.scoring.quantity import checked_quantity


def test_numbers_are_those_of_the_specification() -> None:
    numbers = {member.name: member.value for member in ScoreQuantity}
    assert numbers == {
        "IMPORTANCE": 0,
        "UNCERTAINTY": 1,
        "EFFICIENCY": 2,
        "DIVERSITY": 3,
        "DELTA_ENTROPY": 4,
        "SENSITIVITY": 5,
    }


@pytest.mark.parametrize(
    "given", [ScoreQuantity.DELTA_ENTROPY, "DELTA_ENTROPY", "delta_entropy", "Delta_entropy"]
)
def test_members_and_names_in_any_case_are_taken(given: object) -> None:
    assert checked_quantity(given, ScoreQuantity.DELTA_ENTROPY, "Some") is ScoreQuantity.DELTA_ENTROPY


@pytest.mark.parametrize(
    ("given", "shown"), [("efficiency", "EFFICIENCY"), ("heat", "'heat'"), (1, "1"), (None, "None")]
)
def test_a_refusal_names_class_got_and_supported(given: object, shown: str) -> None:
    with pytest.raises(ConfigError, match=f"SomeScore.*got {shown}.*expected UNCERTAINTY"):
        checked_quantity(given, ScoreQuantity.UNCERTAINTY, "SomeScore")
