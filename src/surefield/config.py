"""Frozen configurations: one base class, YAML with `key.sub=value` overrides, errors that name a near key."""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from surefield.errors import ConfigError, nearest

__all__ = ["Config", "apply_overrides", "faults", "load", "parse", "read_mapping", "to_yaml"]

C = TypeVar("C", bound="Config")
#: What pydantic calls the branches of a union of plain types, which stand in a place as if they were keys.
_BRANCH = re.compile(r"float|int|str|bool|none|constrained-\w+|(?:literal|dict|tuple|list)\[.*\]")


class Config(BaseModel):
    """Base of every configuration: frozen, unknown keys refused, defaults validated."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, arbitrary_types_allowed=True
    )


def load(model: type[C], path: str | Path, overrides: Iterable[str] = ()) -> C:
    """Read a YAML file into a configuration.

    Args:
        model: class of the configuration.
        path: YAML file with a mapping at the top.
        overrides: `key.sub=value` entries that replace what the file says; values are YAML.

    Raises:
        ConfigError: file missing, not YAML, unknown key (the nearest name is offered) or value out of range.
    """
    return parse(model, apply_overrides(read_mapping(path), overrides), where=str(path))


def read_mapping(path: str | Path) -> dict[str, Any]:
    """Keys and values of a YAML file, as they stand there.

    Raises:
        ConfigError: file missing, not YAML, or no mapping.
    """
    path = Path(path)
    if not path.is_file():
        files = [p.name for p in path.parent.glob("*.y*ml")]
        fix = nearest(path.name, files) if files else ""
        raise ConfigError(f"no configuration file at {path.resolve()}", fix=fix)
    try:
        text = path.read_text(encoding="utf-8")
        data = yaml.safe_load(text)
        _check_once(yaml.compose(text, yaml.SafeLoader), path)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{path} must hold a mapping of keys to values, got {type(data).__name__}")
    return data


def _check_once(node: yaml.Node | None, path: Path) -> None:
    """Raise `ConfigError` for a key that stands twice in one section, of which YAML keeps the last."""
    if isinstance(node, yaml.MappingNode):
        lines: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if isinstance(key, yaml.ScalarNode) and key.value in lines:
                where = f"lines {lines[key.value]} and {line}"
                raise ConfigError(f"{key.value!r} stands twice in {path}", got=where, fix="keep one of them")
            if isinstance(key, yaml.ScalarNode):
                lines[key.value] = line
            _check_once(value, path)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            _check_once(value, path)


def parse(model: type[C], data: Mapping[str, Any], where: str = "configuration") -> C:
    """Validate a mapping; all faults are reported in one `ConfigError`."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise ConfigError(f"{where}: {faults(model, error)}") from None


def faults(model: type[BaseModel], error: ValidationError) -> str:
    """All faults that a validation found, in words."""
    return "; ".join(dict.fromkeys(_describe(model, fault) for fault in error.errors(include_url=False)))


def apply_overrides(data: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """Return a copy of `data` with every `key.sub=value` put in; values are parsed as YAML."""
    result = _copy(data)
    for entry in overrides:
        key, equals, value = entry.partition("=")
        if not equals or not key:
            raise ConfigError(f"override {entry!r} must look like key.sub=value")
        place = result
        *parents, last = key.split(".")
        for parent in parents:
            place = place.setdefault(parent, {})
            if not isinstance(place, dict):
                raise ConfigError(f"override {entry!r}: {parent!r} is not a section of the configuration")
        try:
            place[last] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise ConfigError(f"override {entry!r}: the value is not valid YAML") from None
    return result


def to_yaml(config: Config) -> str:
    """Write a configuration with every default spelled out, readable by `load`."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _copy(data: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _copy(value) if isinstance(value, Mapping) else value for key, value in data.items()}


def _describe(model: type[BaseModel], fault: Any) -> str:
    place = [str(part) for part in fault["loc"]]
    # The kind of a union stands in the place as if it were a key.
    shown = [
        part
        for i, part in enumerate(place)
        if not (_is_tag(model, place[:i], part) or (i and _BRANCH.fullmatch(part)))
    ]
    if fault["type"] == "extra_forbidden":
        known = _fields_at(model, place[:-1])
        return f"unknown key {'.'.join(shown)!r}, {nearest(place[-1], known)}"
    if fault["type"] == "missing":
        return f"missing key {'.'.join(shown)!r}"
    where = ".".join(shown) or "configuration"
    if fault["type"] == "union_tag_invalid":
        known = [text.strip(" '") for text in fault["ctx"]["expected_tags"].split(",")]
        kind, tag = fault["ctx"]["discriminator"].strip("'"), fault["ctx"]["tag"]
        return f"{where}.{kind}: there is no kind {tag!r}; {nearest(tag, known)}"
    if fault["type"] == "value_error":
        return f"{where}: {fault['ctx']['error']}"
    text = f"{where}: {fault['msg'].replace('Input should', 'must')}, got {fault['input']!r}"
    if fault["type"] == "literal_error" and isinstance(fault["input"], str):
        names = re.findall(r"'([^']*)'", fault["ctx"]["expected"])
        near = nearest(fault["input"], names)
        text += f"; {near}" if len(names) > 1 and near.startswith("did") else ""
    return text


def _fields_at(model: type[BaseModel], place: list[str]) -> set[str]:
    """Keys that are allowed at a place of a nested configuration (all variants of a union)."""
    return {name for candidate in _models_at(model, place) for name in candidate.model_fields}


def _is_tag(model: type[BaseModel], place: list[str], part: str) -> bool:
    return any(part == _tag(m) and part not in m.model_fields for m in _models_at(model, place))


def _models_at(model: type[BaseModel], place: list[str]) -> list[type[BaseModel]]:
    models = [model]
    for part in place:
        inside: list[type[BaseModel]] = []
        for candidate in models:
            if part in candidate.model_fields:
                inside += _models_in(candidate.model_fields[part].annotation)
            elif _tag(candidate) == part:
                inside.append(candidate)
        models = inside or models
    return models


def _tag(model: type[BaseModel]) -> str | None:
    kind = model.model_fields.get("kind")
    return None if kind is None else str(kind.default)


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        return [annotation] if issubclass(annotation, BaseModel) else []
    return [model for part in typing.get_args(annotation) for model in _models_in(part)]
