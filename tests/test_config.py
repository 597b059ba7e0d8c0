"""Faults of configurations, in words of ours."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field, field_validator

from surefield.config import Config, parse, read_mapping
from surefield.errors import ConfigError


class Cat(Config):
    kind: Literal["cat"] = "cat"
    lives: int = Field(default=9, ge=1)


class Dog(Config):
    kind: Literal["dog"] = "dog"
    size: Literal["small", "large"] = "small"


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
        (
            {"pet": {"kind": "dog", "size": "larg"}},
            "house: pet.size: must be 'small' or 'large', got 'larg'; did you mean 'large'?",
        ),
    ],
)
def test_faults_are_told_in_our_words(data: dict, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse(House, data, "house")
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"rent: 1\nfloor: 2\nrent: 3\n", "'rent' stands twice in .*house.yaml; got lines 1 and 3"),
        (
            b"pet: {kind: cat, lives: 3, lives: 4}\n",
            "'lives' stands twice in .*house.yaml; got lines 1 and 1",
        ),
        (b"\xff\xfe", "house.yaml is not valid YAML: .*can't decode"),
        (b"rent: 1\n\tfloor: 2\n", "house.yaml is not valid YAML"),
        (b"", "house.yaml must hold a mapping of keys to values, got NoneType"),
    ],
)
def test_files_that_cannot_be_meant(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "house.yaml").write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        read_mapping(tmp_path / "house.yaml")
    with pytest.raises(ConfigError, match=r"no configuration file at .*hose.yml; did you mean 'house.yaml'"):
        read_mapping(tmp_path / "hose.yml")
