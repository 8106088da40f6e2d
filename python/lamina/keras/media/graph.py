"""The layers of a model and their connections as a ``wandb.Graph``."""

from typing import Any


def model_graph(model: Any) -> Any:
    """A graph whose nodes are layers, and functions between layers, and whose edges follow the data.

    The layers of a nested model are nodes named ``<model>/<layer>``, with an edge from the nested model to its first
    layers. A subclassed model has layers, but no connections.
    """
    import wandb

    graph = wandb.Graph()
    _add(graph, model, prefix="")
    return graph


def _add(graph: Any, model: Any, prefix: str) -> list[Any]:
    """Add the parts of one model; return the nodes that get its inputs."""
    edges = _connections(model)
    targets = {id(target) for _, target in edges}
    nodes = {}
    for part in _parts(model):
        nodes[id(part)] = node = graph.add_node(**_node(part, prefix + part.name))
        if hasattr(part, "layers"):
            for first in _add(graph, part, f"{prefix}{part.name}/"):
                graph.add_edge(node, first)
    for source, target in edges:
        graph.add_edge(nodes[id(source)], nodes[id(target)])
    return [nodes[id(part)] for part in _parts(model) if edges and id(part) not in targets]


def _parts(model: Any) -> list[Any]:
    if not _is_functional(model):
        return list(model.layers)
    return [node.operation for node in _nodes(model, first_of_each=True)]


def _connections(model: Any) -> list[tuple[Any, Any]]:
    if _is_functional(model):
        own = {id(node) for node in _nodes(model)}
        return [
            (parent.operation, node.operation)
            for node in _nodes(model)
            for parent in node.parent_nodes
            if id(parent) in own
        ]
    if hasattr(model, "_functional"):  # Sequential
        return list(zip(model.layers, model.layers[1:], strict=False))
    return []


def _is_functional(model: Any) -> bool:
    return hasattr(model, "_nodes_by_depth")


def _nodes(model: Any, first_of_each: bool = False) -> list[Any]:
    """The calls of a functional model in order of the data; a shared layer has several."""
    by_depth = sorted(model._nodes_by_depth.items(), reverse=True)
    nodes = [node for _, level in by_depth for node in level]
    if not first_of_each:
        return nodes
    return list({id(node.operation): node for node in reversed(nodes)}.values())[::-1]


def _node(part: Any, name: str) -> dict[str, Any]:
    return {
        "id": name,
        "name": name,
        "class_name": type(part).__name__,
        "output_shape": _output_shape(part),
        "num_parameters": _parameters(part),
    }


def _output_shape(part: Any) -> list[Any]:
    try:
        output = part.output
    except (AttributeError, ValueError):  # never called symbolically, or more than once
        return ["multiple"]
    tensors = output if isinstance(output, list | tuple) else [output]
    if isinstance(output, dict):
        tensors = list(output.values())
    shapes = [list(tensor.shape) for tensor in tensors]
    return shapes[0] if len(shapes) == 1 else shapes


def _parameters(part: Any) -> int:
    if not getattr(part, "built", False) or not hasattr(part, "count_params"):
        return 0
    return int(part.count_params())
