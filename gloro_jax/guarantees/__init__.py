"""Relaxed guarantees: a set of likely classes that cannot change, where one class could.

A strict certificate says that the first class stays first. On many classes that refuses points
where the network hesitates between two kinds of fish, and no other answer is anywhere near. Relaxed
guarantees (Leino and Fredrikson, Relaxing Local Robustness, NeurIPS 2021) keep such points: with
F^k(x) the *set* of the k highest classes,

- `TopK(K)`: for some k up to K, F^k does not change within epsilon;
- `Affinity(sets)`: for some k, F^k does not change within epsilon, and lies in one of the sets.

They are the `guarantee` of `certify`, of VRA, of three losses and of certificate files.
"""

from gloro_jax.guarantees.kinds import Affinity as Affinity
from gloro_jax.guarantees.kinds import Guarantee as Guarantee
from gloro_jax.guarantees.kinds import TopK as TopK
from gloro_jax.guarantees.kinds import check_guarantee as check_guarantee
from gloro_jax.guarantees.kinds import cifar100_superclasses as cifar100_superclasses
from gloro_jax.guarantees.kinds import parse as parse
from gloro_jax.guarantees.sets import SetCertificate as SetCertificate
from gloro_jax.guarantees.sets import bottom_logit as bottom_logit
from gloro_jax.guarantees.sets import is_verified as is_verified
from gloro_jax.guarantees.sets import set_certificate as set_certificate
