"""template.yaml for tests: every parameter has a value and every intrinsic is resolved, without resources."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from aws_local.template import Document, Stack

_ATTRIBUTES = ("Arn", "QueueName", "ApiEndpoint")


def resolved(cfn: Document, **parameters: Any) -> Stack:
    """Return a stack in which each resource's name is its logical id, and each attribute `<logical id>.<attribute>`."""
    names = {name: name for name in cfn["Resources"]}
    attributes = {f"{name}.{attribute}": f"{name}.{attribute}" for name in names for attribute in _ATTRIBUTES}
    return Stack(cfn, parameters=parameters, names=names | attributes)


def statements(stack: Stack, role: str) -> Iterator[tuple[list[str], list[str]]]:
    """Yield each statement of a role's policies as actions and resources."""
    for policy in stack.properties(role, "Policies")["Policies"]:
        for statement in policy["PolicyDocument"]["Statement"]:
            yield _listed(statement["Action"]), _listed(statement["Resource"])


def rights(stack: Stack, role: str) -> dict[str, set[str]]:
    """Return all that a role's policies allow, by resource."""
    allowed: dict[str, set[str]] = {}
    for actions, over in statements(stack, role):
        for resource in over:
            allowed.setdefault(resource, set()).update(actions)
    return allowed


def references(node: Any) -> Iterator[tuple[str, str]]:
    """Yield every name that a template refers to, with the kind of reference, such as Ref or Fn::If."""
    match node:
        case {"Ref": str(name)}:
            yield "Ref", name
        case {"Fn::GetAtt": [str(name), *_]}:
            yield "Fn::GetAtt", name
        case {"Fn::If": [str(condition), *branches]}:
            yield "Fn::If", condition
            yield from references(branches)
        case {"Fn::FindInMap": [str(name), *keys]}:
            yield "Fn::FindInMap", name
            yield from references(keys)
        case {"Fn::Sub": str(text)}:
            yield from _substitutions(text, set())
        case {"Fn::Sub": [str(text), dict(local)]}:
            yield from _substitutions(text, set(local))
            yield from references(local)
        case dict():
            for key, value in node.items():
                if key == "Condition" and isinstance(value, str):
                    yield "Fn::If", value
                yield from references(value)
        case list():
            for item in node:
                yield from references(item)


def _substitutions(text: str, local: set[str]) -> Iterator[tuple[str, str]]:
    for piece in text.split("${")[1:]:
        name, dot, _ = piece.partition("}")[0].partition(".")
        if name not in local:
            yield ("Fn::GetAtt" if dot else "Ref"), name


def _listed(value: Any) -> list[str]:
    return value if isinstance(value, list) else [value]
