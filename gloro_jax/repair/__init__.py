"""Self-repairing networks: a last layer whose answers keep safe ordering properties.

A property says: where the input is so, scores are ordered so. The repairing layer moves scores to
other classes where they break a property, and leaves them alone where they do not (Leino, Fromherz,
Mangal, Fredrikson, Parno, Pasareanu, Self-Correcting Neural Networks, FoMLAS 2022).
"""

from gloro_jax.repair.layer import Repair as Repair
from gloro_jax.repair.layer import Repaired as Repaired
from gloro_jax.repair.orders import Order as Order
from gloro_jax.repair.orders import all_of as all_of
from gloro_jax.repair.orders import any_of as any_of
from gloro_jax.repair.orders import below as below
from gloro_jax.repair.orders import is_maximal as is_maximal
from gloro_jax.repair.orders import is_minimal as is_minimal
from gloro_jax.repair.orders import is_not_maximal as is_not_maximal
from gloro_jax.repair.orders import is_not_minimal as is_not_minimal
from gloro_jax.repair.preconditions import AllOf as AllOf
from gloro_jax.repair.preconditions import Always as Always
from gloro_jax.repair.preconditions import InBox as InBox
from gloro_jax.repair.preconditions import PredictedIn as PredictedIn
from gloro_jax.repair.preconditions import SumIn as SumIn
from gloro_jax.repair.words import Property as Property
from gloro_jax.repair.words import parse as parse
