"""What a GloRo Net returns: scores with the bounds that margins are made of, and a seal."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from gloro_jax.lipschitz.norms import Estimate, UpperBound
from gloro_jax.lipschitz.rounding import is_finite
from gloro_jax.platforms import is_tracing
from gloro_jax.pytrees import checksum, mixed_bits, pytree_dataclass


@pytree_dataclass()
class GloroLogits:
    """What a GloRo Net returns.

    Attributes:
        values: the scores y, (..., m).
        lipschitz: K, the bound of the map from the input to the head's input; an `Estimate`
            from a training pass, an `UpperBound` from a `FrozenNet`. The difference of logits
            i and j is K * head_distances[i, j]-Lipschitz.
        head_distances: ||w_i - w_j|| of the head's rows as used, (m, m).

    What a `FrozenNet` returns is sealed: where `jax.tree.map`, `dataclasses.replace` or the like
    made other scores or bounds of it, nothing is certified. One that you construct is your claim.
    """

    values: Any
    lipschitz: Estimate | UpperBound
    head_distances: Any
    _seal: Any = dataclasses.field(default=None, repr=False, kw_only=True)

    @property
    def prediction(self) -> Int[Array, "*batch"]:
        """The class with the largest score; the lowest index on a tie."""
        return jnp.argmax(self.values, axis=-1)

    def sealed(self) -> "GloroLogits":
        """The same, with a checksum that notices if scores or bounds become others."""
        kept = dataclasses.replace(self, values=jax.lax.optimization_barrier(self.values))
        return dataclasses.replace(kept, _seal=kept._checksum())

    def is_whole(self) -> Bool[Array, "*batch"]:
        """Whether scores and bounds are those that were sealed, if they were.

        Raises:
            ValueError: if they are not, outside `jit`.
        """
        if self._seal is None:
            return jnp.ones(self.values.shape[:-1], bool)
        shape = self.values.shape[:-1]
        if jnp.shape(self._seal) == shape and self.values.dtype == jnp.float32:
            is_whole = self._seal == self._checksum()
        else:
            is_whole = jnp.zeros(shape, bool)
        if not is_tracing(is_whole) and not is_whole.all():
            raise ValueError(
                "The scores or bounds of these logits are not those that the network returned: "
                "jax.tree.map, a mean or a reordering made others, and a radius of them would mean "
                "nothing. Take them from the network as they are; for a mean of networks there is "
                "gj.ensembles.SoftVoting; with a bound of your own, gj.GloroLogits(values, "
                "lipschitz, head_distances)."
            )
        return is_whole

    def _checksum(self) -> Float[Array, "*batch"]:
        """24 bits as float32, an exact integer there: derivatives of logits stay all floats."""
        bounds = checksum([jnp.asarray(self.lipschitz.value), jnp.asarray(self.head_distances)])
        values = jnp.where(self.values != 0, self.values, 0.0)  # -0 and NaN have several forms
        values = jnp.where(is_finite(self.values), values, jnp.nan)
        values = mixed_bits(values).sum(axis=-1, dtype=np.uint32)
        return ((values + bounds) >> np.uint32(8)).astype(jnp.float32)
