"""Certificate files: theorems about stored weights, and the program that checks them."""

from gloro_jax.certificates.check_certificate import Refused as Refused
from gloro_jax.certificates.check_certificate import check as check
from gloro_jax.certificates.describe import describe as describe
from gloro_jax.certificates.write import Written as Written
from gloro_jax.certificates.write import as_fraction as as_fraction
from gloro_jax.certificates.write import write as write
from gloro_jax.network import weights as weights
