"""template.yaml as CloudFormation would see it: translated by SAM, its parameters and intrinsics resolved."""

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
    """The template names something that has no value here."""


def load(path: Path = TEMPLATE) -> Document:
    """Read a SAM template; short forms like `!Ref` become their long forms."""
    document: Document = yaml_parse(path.read_text(encoding="utf-8"))
    return document


def translate(document: Document) -> Document:
    """Turn a SAM template into the CloudFormation that AWS would run, offline. The argument stays as it is.

    Raises:
        samtranslator.model.exceptions.InvalidDocumentException: SAM would refuse it.
    """
    document = copy.deepcopy(document)
    for resource in document["Resources"].values():
        # `sam package` uploads local folders and leaves such addresses; the translator takes nothing else.
        if resource["Type"] == "AWS::Serverless::LayerVersion":
            resource["Properties"]["ContentUri"] = "s3://bucket/layer.zip"
        if resource["Type"] == "AWS::Serverless::Function":
            resource["Properties"]["CodeUri"] = "s3://bucket/function.zip"
    translator = Translator({}, Parser(), boto_session=SimpleNamespace(region_name=REGION))
    translated: Document = translator.translate(document, parameter_values={})
    return translated


class Stack:
    """A translated template, with a value for each parameter and names for the resources that exist.

    `names` maps a logical id to what `Ref` gives, and `<logical id>.<attribute>` to what `GetAtt` gives.
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
        """Give the resources of one type by logical id, as written."""
        return {name: res for name, res in self._template["Resources"].items() if res["Type"] == kind}

    def properties(self, logical_id: str, *only: str) -> Document:
        """Give a resource's properties, all or the named ones, with every intrinsic resolved.

        Raises:
            Unresolvable: one of them refers to a resource that is not among the names.
        """
        written = self._template["Resources"][logical_id]["Properties"]
        properties: Document = self.resolve({name: written[name] for name in only or written})
        return properties

    def environment(self, function: str) -> dict[str, str]:
        """Give the variables a function gets."""
        variables: dict[str, str] = self.properties(function, "Environment")["Environment"]["Variables"]
        return variables

    def resolve(self, value: Any) -> Any:
        """Replace the intrinsics in a value; what resolves to AWS::NoValue is left out."""
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
        raise Unresolvable(f"The condition {condition} is of a kind that nothing here needed so far.")

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
