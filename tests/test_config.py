"""Faults of configurations, in words of ours."""

from __future__ import annotations

from typing import Annotated, Literal

import pytest
from pydantic import Field, field_validator

from surefield.config import Config, parse
from surefield.errors import ConfigError


class Cat(Config):
    kind: Literal["cat"] = "cat"
    lives: int = Field(default=9, ge=1)


class Dog(Config):
    kind: Literal["dog"] = "dog"


class House(Config):
    pet: Annotated[Cat | Dog, Field(discriminator="kind")] = Cat()
    rent: Annotated[float, Field(ge=0)] | Literal["free"] = "free"
    floor: int = 0

    @field_validator("floor")
    @classmethod
    def _storeys(cls, floor: int) -> int:
        if floor > 3:
            raise ValueError("there are three storeys")
        return floor


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"pet": {"kind": "cot"}}, "house: pet.kind: there is no kind 'cot'; did you mean 'cat'?"),
        ({"pet": {"kind": "eel"}}, "house: pet.kind: there is no kind 'eel'; known: cat, dog"),
        ({"pet": {"kind": "cat", "lives": 0}}, "house: pet.lives: must be greater than or equal to 1, got 0"),
        ({"pet": {"kind": "cat", "live": 0}}, "house: unknown key 'pet.live', did you mean 'lives'?"),
        (
            {"rent": -1},
            "house: rent: must be greater than or equal to 0, got -1; rent: must be 'free', got -1",
        ),
        ({"floor": 4}, "house: floor: there are three storeys"),
    ],
)
def test_faults_are_told_in_our_words(data: dict, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse(House, data, "house")
    assert str(error.value) == message
