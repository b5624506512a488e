"""Which linear layers need more than int8: those that gain most for what they cost, as few as it takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from export.graph import EMBEDDINGS
from export.quantization.cost import Cost

__all__ = ["Move", "fewest", "moves"]


@dataclass(frozen=True)
class Move:
    """One linear layer, or the embedding table, brought into a better form."""

    name: str
    form: str
    gain: float  # of 1 - cosine
    cost: float  # added time and size, each relative to the whole in int8


def moves(
    gains: Mapping[str, float],
    activations: Mapping[str, float],
    costs: Mapping[tuple[str, str], Cost],
    table: Cost,
) -> list[Move]:
    """List what can be done, what gains most for its cost first.

    :param gains: name -> what the linear layer, quantised alone, takes from the cosine: what fp32 gains.
    :param activations: name -> the part of it that is due to rounding its input: what 16 bits for it gain.
    :param costs: of the matrices of a layer, by form.
    :param table: what the embedding table costs more in fp32 than in int8.
    :return: the moves; a linear layer can go from int8 to wide and from there to fp32.
    """
    layers = len(gains) // len({name for name, _ in costs})
    ms = sum(cost[0] for (_, form), cost in costs.items() if form == "int8") * layers
    megabytes = sum(cost[1] for (_, form), cost in costs.items() if form == "int8") * layers + table[1] / 3

    def relative(cost: Cost) -> float:
        return max(max(cost[0], 0.0) / ms + cost[1] / megabytes, 1e-9)

    found = []
    for name, gain in gains.items():
        if name == EMBEDDINGS:
            found.append(Move(name, "fp32", gain, relative(table)))
            continue
        matrix = name.split(".", 3)[3]
        int8, wide, fp32 = (costs[matrix, form] for form in ("int8", "wide", "fp32"))
        part = gain * activations[name]
        first = Move(name, "wide", part, relative((wide[0] - int8[0], wide[1] - int8[1])))
        second = Move(name, "fp32", gain - part, relative((fp32[0] - wide[0], fp32[1] - wide[1])))
        direct = Move(name, "fp32", gain, relative((fp32[0] - int8[0], fp32[1] - int8[1])))
        stepwise = first.gain / first.cost > direct.gain / direct.cost
        found += [first, second] if stepwise else [direct]
    order = {move: number for number, move in enumerate(found)}
    # A layer's second step never comes before its first, whatever noise there is in the figures.
    best: dict[str, float] = {}
    keys = {}
    for move in found:
        best[move.name] = min(best.get(move.name, float("inf")), move.gain / move.cost)
        keys[move] = (-best[move.name], order[move])
    return sorted(found, key=keys.__getitem__)


def fewest(count: int, enough: Callable[[int], bool]) -> int:
    """Find how many moves it takes, by bisection.

    :param count: how many there are; all of them are enough.
    :param enough: whether so many are.
    :return: the number.
    """
    low, high = 0, count
    while low < high:
        middle = (low + high) // 2
        if enough(middle):
            high = middle
        else:
            low = middle + 1
    return low
