"""Steps: what a network does, written down, for a certificate file to replay.

`Bounded.apply` notes a step beside the value and the bound, if asked to (`describe` asks). A layer
names what it applies, `Step.of("minmax", pairing="halves", order="max_min")`; a function without a
name has no proof outside this library, and `describe` refuses it.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any


@dataclasses.dataclass(frozen=True)
class Step:
    """One layer, as plain data that can be static in a pytree.

    Attributes:
        op: what it does, a word of the certificate format (docs/certificates.md); None for a
            function that nobody named.
        options: its numbers and names.
        branches: of a sum, the chains that are added; of a mean over views, the chain that sees
            each of them.
    """

    op: str | None
    options: tuple[tuple[str, Any], ...] = ()
    branches: tuple[tuple["Step", ...], ...] = ()

    @staticmethod
    def of(op: str | None, **options: Any) -> "Step":
        """A step from keywords; sequences become tuples."""
        return Step(op, tuple((name, _hashable(value)) for name, value in options.items()))

    @staticmethod
    def of_views(views: Any, steps: "Steps") -> "Step":
        """The mean of what `steps` make of views of an image (`gloro_jax.views.parse`)."""
        return Step("mean_over_views", (("views", _hashable(views)),), (tuple(steps),))

    def plain(self) -> dict[str, Any]:
        """The step as JSON holds it."""
        branches = [[step.plain() for step in branch] for branch in self.branches]
        options = {name: _listed(value) for name, value in self.options}
        return {"op": self.op, **options, **({"branches": branches} if branches else {})}


Steps = tuple[Step, ...]


def joined(a: Steps, b: Steps) -> Steps:
    """The steps of a sum of two branches: what they share, once, and then the sum of the rest."""
    shared = 0
    while shared < min(len(a), len(b)) and a[shared] == b[shared]:
        shared += 1
    return (*a[:shared], Step("sum", branches=(a[shared:], b[shared:])))


def every(steps: Steps) -> Iterator[Step]:
    """All steps, those inside branches too."""
    for step in steps:
        yield step
        for branch in step.branches:
            yield from every(branch)


def layers_of(steps: Steps) -> list[str]:
    """The paths of the layers that steps name, in their order."""
    options = (option for step in every(steps) for option in step.options)
    return [str(value) for name, value in options if name == "layer"]


def _hashable(value: Any) -> Any:
    return tuple(map(_hashable, value)) if isinstance(value, tuple | list) else value


def _listed(value: Any) -> Any:
    return [_listed(item) for item in value] if isinstance(value, tuple) else value
