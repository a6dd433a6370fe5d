"""Read template.yaml as CloudFormation does: translate it with SAM, and resolve its parameters and intrinsics."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from samtranslator.parser.parser import Parser
from samtranslator.translator.translator import Translator
from samtranslator.yaml_helper import yaml_parse

TEMPLATE = Path(__file__).resolve().parents[2] / "template.yaml"
REGION = "us-east-1"
ACCOUNT = "000000000000"
_PSEUDO = {
    "AWS::Region": REGION,
    "AWS::AccountId": ACCOUNT,
    "AWS::Partition": "aws",
    "AWS::StackName": "llm-server",
}
_NO_VALUE = object()

Document = dict[str, Any]


class Unresolvable(Exception):
    """The template refers to a name without a value, or uses a kind of condition that is not supported here."""


def load(path: Path = TEMPLATE) -> Document:
    """Read a SAM template; short forms such as `!Ref` become their long forms."""
    document: Document = yaml_parse(path.read_text(encoding="utf-8"))
    return document


def translate(document: Document) -> Document:
    """Translate a SAM template into CloudFormation, offline. The argument is not changed.

    Raises:
        samtranslator.model.exceptions.InvalidDocumentException: SAM would refuse the template.
    """
    document = copy.deepcopy(document)
    for resource in document["Resources"].values():
        # `sam package` replaces local folders by such addresses; the translator accepts no others.
        if resource["Type"] == "AWS::Serverless::LayerVersion":
            resource["Properties"]["ContentUri"] = "s3://bucket/layer.zip"
        if resource["Type"] == "AWS::Serverless::Function":
            resource["Properties"]["CodeUri"] = "s3://bucket/function.zip"
    translator = Translator({}, Parser(), boto_session=SimpleNamespace(region_name=REGION))
    translated: Document = translator.translate(document, parameter_values={})
    return translated


class Stack:
    """A translated template, with a value for each parameter and names for the resources that exist.

    `names` maps a logical id to the value of `Ref`, and `<logical id>.<attribute>` to the value of `GetAtt`.
    """

    def __init__(
        self,
        translated: Document,
        *,
        parameters: Mapping[str, Any] | None = None,
        names: Mapping[str, Any] | None = None,
    ) -> None:
        self._template = translated
        defaults = {name: _default(spec) for name, spec in translated.get("Parameters", {}).items()}
        self.names: dict[str, Any] = {**_PSEUDO, **defaults, **(parameters or {}), **(names or {})}

    def resources(self, kind: str) -> dict[str, Document]:
        """Return the resources of one type by logical id, as written."""
        return {name: res for name, res in self._template["Resources"].items() if res["Type"] == kind}

    def properties(self, logical_id: str, *only: str) -> Document:
        """Return a resource's properties, all or only the named ones, with every intrinsic resolved.

        Raises:
            Unresolvable: a property refers to a resource that is not in `names`.
        """
        written = self._template["Resources"][logical_id]["Properties"]
        properties: Document = self.resolve({name: written[name] for name in only or written})
        return properties

    def environment(self, function: str) -> dict[str, str]:
        """Return the environment variables of a function."""
        variables = self.properties(function, "Environment")["Environment"]["Variables"]
        return {name: str(value) for name, value in variables.items()}

    def refusals(self) -> list[str]:
        """Return the sentences with which CloudFormation would refuse these parameters, by the template's rules."""
        rules = [r for r in self._template.get("Rules", {}).values() if self._holds(r["RuleCondition"])]
        assertions = [assertion for rule in rules for assertion in rule["Assertions"]]
        return [a["AssertDescription"] for a in assertions if not self._holds(a["Assert"])]

    def resolve(self, value: Any) -> Any:
        """Return a value with its intrinsics replaced; items that resolve to AWS::NoValue are left out."""
        match value:
            case {"Ref": "AWS::NoValue"}:
                return _NO_VALUE
            case {"Ref": str(name)}:
                return self._named(name)
            case {"Fn::GetAtt": [str(name), str(attribute)]}:
                return self._named(f"{name}.{attribute}")
            case {"Fn::Sub": str(text)}:
                return self._substitute(text, {})
            case {"Fn::Sub": [str(text), dict(local)]}:
                return self._substitute(text, self.resolve(local))
            case {"Fn::If": [str(condition), yes, no]}:
                return self.resolve(yes if self._holds(self._template["Conditions"][condition]) else no)
            case {"Fn::FindInMap": [str(mapping), row, str(column)]}:
                return self._template["Mappings"][mapping][self.resolve(row)][column]
            case {"Fn::Join": [str(glue), parts]}:
                return glue.join(self.resolve(parts))
            case dict():
                pairs = {key: self.resolve(item) for key, item in value.items()}
                return {key: item for key, item in pairs.items() if item is not _NO_VALUE}
            case list():
                return [item for item in map(self.resolve, value) if item is not _NO_VALUE]
        return value

    def _holds(self, condition: Document) -> bool:
        match condition:
            case {"Fn::Equals": [left, right]}:
                return bool(self.resolve(left) == self.resolve(right))
            case {"Fn::Not": [inner]}:
                return not self._holds(inner)
            case {"Fn::And": list(parts)}:
                return all(self._holds(part) for part in parts)
            case {"Fn::Contains": [values, value]}:
                return self.resolve(value) in self.resolve(values)
        raise Unresolvable(f"The condition {condition} is of a kind that is not supported here.")

    def _named(self, name: str) -> Any:
        try:
            return self.names[name]
        except KeyError:
            raise Unresolvable(f"{name} has no value.") from None

    def _substitute(self, text: str, local: Mapping[str, Any]) -> str:
        head, *rest = text.split("${")
        for piece in rest:
            name, _, tail = piece.partition("}")
            head += str(local[name] if name in local else self._named(name)) + tail
        return head


def _default(spec: Document) -> Any:
    default = spec.get("Default", "")
    return default.split(",") if spec["Type"] == "CommaDelimitedList" else default
