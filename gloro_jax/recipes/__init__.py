"""Named training recipes: a function per recipe, returning all that a run needs."""

from gloro_jax.recipes.cifar10 import cifar10_6c2f as cifar10_6c2f
from gloro_jax.recipes.cifar10 import cifar10_chord_l12w512 as cifar10_chord_l12w512
from gloro_jax.recipes.cifar10 import cifar10_liresnet_annealed as cifar10_liresnet_annealed
from gloro_jax.recipes.cifar10 import cifar10_liresnet_l12w512 as cifar10_liresnet_l12w512
from gloro_jax.recipes.cifar10 import cifar10_liresnet_small as cifar10_liresnet_small
from gloro_jax.recipes.cifar10 import cifar10_liresnet_small_108 as cifar10_liresnet_small_108
from gloro_jax.recipes.digits import digits as digits
from gloro_jax.recipes.large import cifar100_chord_l12w512 as cifar100_chord_l12w512
from gloro_jax.recipes.large import cifar100_liresnet_l12w512 as cifar100_liresnet_l12w512
from gloro_jax.recipes.large import cifar100_liresnet_small as cifar100_liresnet_small
from gloro_jax.recipes.large import imagenet_chord_l12w588 as imagenet_chord_l12w588
from gloro_jax.recipes.large import imagenet_liresnet_l12w588 as imagenet_liresnet_l12w588
from gloro_jax.recipes.large import imagenet_liresnet_l18w588 as imagenet_liresnet_l18w588
from gloro_jax.recipes.large import tiny_imagenet_8c2f as tiny_imagenet_8c2f
from gloro_jax.recipes.large import tiny_imagenet_chord as tiny_imagenet_chord
from gloro_jax.recipes.large import tiny_imagenet_liresnet as tiny_imagenet_liresnet
from gloro_jax.recipes.mnist import fashion_2c2f as fashion_2c2f
from gloro_jax.recipes.mnist import fashion_liresnet_small as fashion_liresnet_small
from gloro_jax.recipes.mnist import mnist_2c2f as mnist_2c2f
from gloro_jax.recipes.mnist import mnist_4c3f as mnist_4c3f
from gloro_jax.recipes.mnist import mnist_chord_mlp as mnist_chord_mlp
from gloro_jax.recipes.mnist import mnist_crown_ibp as mnist_crown_ibp
from gloro_jax.recipes.mnist import mnist_ibp as mnist_ibp
from gloro_jax.recipes.mnist import mnist_liresnet_small as mnist_liresnet_small
from gloro_jax.recipes.recipe import Recipe as Recipe

RECIPES = {
    recipe.__name__: recipe
    for recipe in (
        digits,
        mnist_2c2f,
        mnist_4c3f,
        mnist_chord_mlp,
        mnist_liresnet_small,
        mnist_ibp,
        mnist_crown_ibp,
        fashion_2c2f,
        fashion_liresnet_small,
        cifar10_6c2f,
        cifar10_liresnet_small,
        cifar10_liresnet_annealed,
        cifar10_liresnet_small_108,
        cifar10_liresnet_l12w512,
        cifar10_chord_l12w512,
        cifar100_liresnet_small,
        cifar100_liresnet_l12w512,
        cifar100_chord_l12w512,
        tiny_imagenet_8c2f,
        tiny_imagenet_liresnet,
        tiny_imagenet_chord,
        imagenet_liresnet_l12w588,
        imagenet_chord_l12w588,
        imagenet_liresnet_l18w588,
    )
}
