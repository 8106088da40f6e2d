"""Answers GraphQL without a schema: the selections of a document are walked over `Node`s.

No schema of the real server is public. A field that no resolver knows is an error, never a null, so a
client that starts to ask for something new shows up as a failing test.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from graphql import DocumentNode, GraphQLSyntaxError, OperationType, parse
from graphql.language import ast

INTERFACES = {"ArtifactCollection": {"ArtifactSequence", "ArtifactPortfolio"}}


class GraphQLError(Exception):
    """An answer with `errors`: the client must see it as a refusal, not as a server failure to retry."""


@dataclass(frozen=True)
class Node:
    """An object of the answer; a callable field is resolved with its arguments when it is asked for."""

    typename: str
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Request:
    """One parsed operation of a document, with its fragments and variables."""

    operation: ast.OperationDefinitionNode
    fragments: Mapping[str, ast.FragmentDefinitionNode]
    variables: Mapping[str, Any]

    @property
    def name(self) -> str:
        return self.operation.name.value if self.operation.name else "(anonymous)"

    @property
    def is_mutation(self) -> bool:
        return self.operation.operation is OperationType.MUTATION

    @property
    def root_fields(self) -> list[str]:
        return [node.name.value for node in self.operation.selection_set.selections if isinstance(node, ast.FieldNode)]


@lru_cache(maxsize=256)
def _parse(text: str) -> DocumentNode:
    return parse(text, no_location=True)


def read_request(text: str, variables: Mapping[str, Any] | None, operation_name: str | None = None) -> Request:
    """Parse one operation and give its variables their defaults."""
    try:
        document = _parse(text)
    except GraphQLSyntaxError as error:
        raise GraphQLError(error.message) from error
    operations = [node for node in document.definitions if isinstance(node, ast.OperationDefinitionNode)]
    if operation_name:
        operations = [node for node in operations if node.name and node.name.value == operation_name]
    if len(operations) != 1:
        raise GraphQLError(f"Expected one operation. Received: {len(operations)}")
    fragments = {node.name.value: node for node in document.definitions if isinstance(node, ast.FragmentDefinitionNode)}
    known = dict(variables or {})
    for definition in operations[0].variable_definitions or ():
        name = definition.variable.name.value
        if name not in known and definition.default_value is not None:
            known[name] = _literal(definition.default_value, {})
    return Request(operations[0], fragments, known)


def execute(request: Request, root: Mapping[str, Callable[..., Any]]) -> dict[str, Any]:
    """Resolve the operation; `root` holds the top-level fields by name."""
    walker = _Walker(request)
    kind = "Mutation" if request.is_mutation else "Query"
    return walker.select(Node(kind, root), [request.operation.selection_set])


_MISSING = object()


def _literal(node: ast.ValueNode, variables: Mapping[str, Any]) -> Any:
    if isinstance(node, ast.VariableNode):
        return variables.get(node.name.value, _MISSING)
    if isinstance(node, ast.NullValueNode):
        return None
    if isinstance(node, ast.IntValueNode):
        return int(node.value)
    if isinstance(node, ast.FloatValueNode):
        return float(node.value)
    if isinstance(node, ast.ListValueNode):
        return [_literal(item, variables) for item in node.values]
    if isinstance(node, ast.ObjectValueNode):
        return _named(node.fields, variables)
    return node.value  # type: ignore[attr-defined]  # strings, booleans and enums carry their value


def _named(nodes: Iterable[Any] | None, variables: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments or object fields; one whose variable was not given is left out, as the spec says."""
    pairs = ((node.name.value, _literal(node.value, variables)) for node in nodes or ())
    return {name: value for name, value in pairs if value is not _MISSING}


class _Walker:
    def __init__(self, request: Request) -> None:
        self._request = request

    def select(self, node: Node, selection_sets: Iterable[ast.SelectionSetNode]) -> dict[str, Any]:
        answer = {}
        for key, fields in self._collect(node.typename, selection_sets).items():
            answer[key] = self._complete(self._resolve(node, fields[0]), fields)
        return answer

    def _collect(self, typename: str, selection_sets: Iterable[ast.SelectionSetNode]) -> dict[str, list[ast.FieldNode]]:
        """Group the fields by answer key: a fragment may ask for the same field with other subfields."""
        grouped: dict[str, list[ast.FieldNode]] = {}
        for selection in self._expand(typename, selection_sets):
            key = selection.alias.value if selection.alias else selection.name.value
            grouped.setdefault(key, []).append(selection)
        return grouped

    def _expand(self, typename: str, selection_sets: Iterable[ast.SelectionSetNode]) -> Iterable[ast.FieldNode]:
        for selections in selection_sets:
            for selection in selections.selections:
                if not self._included(selection):
                    continue
                if isinstance(selection, ast.FieldNode):
                    yield selection
                else:
                    yield from self._expand_fragment(typename, selection)

    def _expand_fragment(self, typename: str, spread: ast.SelectionNode) -> Iterable[ast.FieldNode]:
        if isinstance(spread, ast.FragmentSpreadNode):
            fragment: Any = self._request.fragments.get(spread.name.value)
            if fragment is None:
                raise GraphQLError(f'Unknown fragment "{spread.name.value}".')
        else:
            fragment = spread
        condition = fragment.type_condition.name.value if fragment.type_condition else typename
        if typename == condition or typename in INTERFACES.get(condition, ()):
            yield from self._expand(typename, [fragment.selection_set])

    def _included(self, selection: ast.SelectionNode) -> bool:
        for directive in selection.directives or ():
            condition = _named(directive.arguments, self._request.variables).get("if")
            if (directive.name.value == "include") != bool(condition):
                return False
        return True

    def _resolve(self, node: Node, selection: ast.FieldNode) -> Any:
        name = selection.name.value
        if name == "__typename":
            return node.typename
        if name not in node.fields:
            raise GraphQLError(f'Cannot query field "{name}" on type "{node.typename}".')
        value = node.fields[name]
        return value(**_named(selection.arguments, self._request.variables)) if callable(value) else value

    def _complete(self, value: Any, fields: list[ast.FieldNode]) -> Any:
        if isinstance(value, list):
            return [self._complete(item, fields) for item in value]
        if not isinstance(value, Node):
            return value
        selection_sets = [selection.selection_set for selection in fields if selection.selection_set]
        if not selection_sets:
            raise GraphQLError(f'Field "{fields[0].name.value}" of type "{value.typename}" needs a selection.')
        return self.select(value, selection_sets)
