"""Steps at which some parameters have no gradient: what moves then, and what has to hold."""

from collections import OrderedDict
from typing import NamedTuple, TypeVar

from projlab.training.equations import StackedEquations
from projlab.training.parameter_system import ParameterSystem

PATTERNS = 16
"""Of parameters without a gradient, for which what was derived is kept."""

K = TypeVar("K")
V = TypeVar("V")


class Awake(NamedTuple):
    """What is done at a step where some parameters have no gradient."""

    systems: tuple[ParameterSystem, ...]
    """Whose parameters move."""
    judged: ParameterSystem | None
    """What has to hold after it, by moving the others if need be."""


class SleepingParameters:
    """What there is to do of a system where some of its parameters are held."""

    def __init__(self, system: ParameterSystem, variant: str) -> None:
        self.system, self._variant = system, variant
        self._families = system.families()
        self._awake: OrderedDict[frozenset[int], Awake] = OrderedDict()
        self._moving: OrderedDict[object, ParameterSystem] = OrderedDict()

    def forget(self) -> None:
        """Derive again what depends on the right sides."""
        self._awake.clear()
        self._moving.clear()

    @property
    def patterns(self) -> int:
        """For how many sets of held parameters something is kept."""
        return len(self._awake)

    def awake_of(self, held: frozenset[int]) -> Awake:
        """What there is to do where these parameters have no gradient.

        Equations all of whose parameters are held cost nothing. Only the last few patterns are
        kept: with experts that take turns each step has its own.
        """
        if (found := self._awake.get(held)) is not None:
            self._awake.move_to_end(held)
            return found
        systems: list[ParameterSystem] = []
        whole: set[int] = set()
        judged: set[int] = set()
        for equations, parameters in self._families:
            if parameters.isdisjoint(held):
                whole |= equations
            elif not parameters <= held:
                systems.append(self._moving_in(equations, held & parameters))
            elif not self.system.reads_constants:
                continue
            judged |= equations
        if whole:
            systems.append(self.system.part(whole))
        awake = Awake(tuple(systems), self.system.part(judged) if judged else None)
        return _kept(self._awake, held, awake)

    def _moving_in(self, equations: set[int], held: frozenset[int]) -> ParameterSystem:
        """Some of the equations, in which parameters without a gradient are constants."""
        key = (min(equations), held)
        if (found := self._moving.get(key)) is not None:
            self._moving.move_to_end(key)
            return found
        moving = {id(p) for i, p in enumerate(self.system.parameters) if i not in held}
        stacked = self.system.stacked
        own = [stacked.equations[i] for i in sorted(equations)]
        system = ParameterSystem(
            StackedEquations(own, stacked.chosen_names),
            self.system.actual,
            lambda p: id(p) in moving,
            self._variant,
            strict=False,
        )
        return _kept(self._moving, key, system)


def _kept(cache: "OrderedDict[K, V]", key: K, value: V) -> V:
    """The value, kept with the last ones that were asked for."""
    cache[key] = value
    if len(cache) > PATTERNS:
        cache.popitem(last=False)
    return value
