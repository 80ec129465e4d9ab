"""Ensembles of certified networks: what may be certified of them, and what may not.

`Voting` and `SoftVoting` certify what follows from their members' certificates. A `Cascade`
predicts and does not certify. `Selective` abstains where members of other seeds could disagree.
`Compositional` (ACE) asks a certified network where a gate says so, and a core network elsewhere.
"""

from gloro_jax.ensembles.cascade import Cascade as Cascade
from gloro_jax.ensembles.cascade import CascadePrediction as CascadePrediction
from gloro_jax.ensembles.cascade_attack import CascadeAttack as CascadeAttack
from gloro_jax.ensembles.cascade_attack import attack_cascade as attack_cascade
from gloro_jax.ensembles.compositional import Compositional as Compositional
from gloro_jax.ensembles.compositional import CompositionalCertificate as CompositionalCertificate
from gloro_jax.ensembles.compositional import gate_labels as gate_labels
from gloro_jax.ensembles.consistency import ssim as ssim
from gloro_jax.ensembles.consistency import top_overlap as top_overlap
from gloro_jax.ensembles.entropy import EntropyGate as EntropyGate
from gloro_jax.ensembles.selective import Selection as Selection
from gloro_jax.ensembles.selective import Selective as Selective
from gloro_jax.ensembles.soft_voting import SoftVoting as SoftVoting
from gloro_jax.ensembles.voting import Voting as Voting
from gloro_jax.ensembles.voting import VotingCertificate as VotingCertificate
from gloro_jax.ensembles.voting import learn_weights as learn_weights
