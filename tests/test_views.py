"""Views: index maps of norm 1, means whose bounds hold, and nothing else under that name."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gloro_jax as gj
from gloro_jax import views
from gloro_jax.certificates import check_certificate as checker
from tests import draws
from tests.certificates import forge

WORDS = ("identity", "mirror", "shift:1,0", "shift:-2,1", "roll:0,-1", "mirror+roll:2,1+shift:0,2")
CASES = list(itertools.product(WORDS, ((5, 5), (4, 7), (6, 3))))


def matrix_of(view, height, width):
    """The matrix of a view of one-channel images, column by column."""
    basis = jnp.eye(height * width).reshape(-1, height, width, 1)
    return np.asarray(views.stack((view,), basis)).reshape(len(basis), -1).T


@pytest.mark.parametrize(("word", "size"), CASES)
def test_a_view_has_at_most_one_1_in_each_row_and_column(word, size):
    matrix = matrix_of(word, *size)
    assert set(np.unique(matrix)) <= {0.0, 1.0}
    assert matrix.sum(0).max() <= 1
    assert matrix.sum(1).max() <= 1
    is_isometry = "shift" not in word
    assert np.array_equal(matrix.sum(1) == 1, np.full(len(matrix), True)) == is_isometry


@pytest.mark.parametrize(("word", "size"), CASES)
def test_the_checker_sees_what_the_network_sees(word, size):
    images = draws.normal(0, (2, *size, 3))
    (moves,) = views.parse((word,))
    seen = checker.seen(np.asarray(images, np.float64), moves)
    assert np.array_equal(seen, np.asarray(views.stack((word,), images)))


def test_moves_by_hand():
    image = jnp.arange(6.0).reshape(1, 2, 3, 1)
    wanted = {
        "mirror": [[2, 1, 0], [5, 4, 3]],
        "shift:1,0": [[0, 0, 0], [0, 1, 2]],
        "shift:0,-1": [[1, 2, 0], [4, 5, 0]],
        "roll:0,1": [[2, 0, 1], [5, 3, 4]],
        "mirror+shift:0,1": [[0, 2, 1], [0, 5, 4]],
        "shift:0,1+mirror": [[1, 0, 0], [4, 3, 0]],
    }
    for word, pixels in wanted.items():
        assert np.asarray(views.stack((word,), image))[0, ..., 0].tolist() == pixels, word


@pytest.fixture(scope="module")
def both(small_net):
    """A network with views and without, frozen with the same weights."""
    net, variables, _ = small_net
    averaged = dataclasses.replace(net, views=WORDS)
    shape = (8, 8, 1)
    return tuple(gj.freeze(n, variables, input_shape=shape) for n in (averaged, net))


def test_the_features_are_the_mean_and_every_bound_stays(both):
    averaged, plain = both
    x = draws.uniform(1, (3, 8, 8, 1))
    stacked = plain(views.stack(WORDS, x)).values.reshape(len(WORDS), 3, -1)
    assert np.allclose(averaged(x).values, stacked.mean(0), atol=1e-5)
    assert averaged.lipschitz == plain.lipschitz
    assert np.array_equal(averaged.head().distances, plain.head().distances)
    assert averaged.digest != plain.digest


def test_no_pair_of_inputs_lies_above_the_bound(both):
    averaged, _ = both
    rng = np.random.default_rng(0)
    x = rng.uniform(size=(64, 8, 8, 1)).astype(np.float32)
    for length in (1e-3, 0.1, 3.0):
        d = rng.standard_normal(x.shape).astype(np.float32)
        d *= length / np.sqrt(np.square(d).sum((1, 2, 3), keepdims=True))
        moved = np.asarray(averaged(x + d).values - averaged(x).values, np.float64)
        between = np.abs(moved[:, :, None] - moved[:, None, :])
        reach = averaged.lipschitz * np.asarray(averaged.head().distances, np.float64)
        assert (between <= reach * length * (1 + 1e-5) + 1e-5).all()


def test_a_view_that_overflows_certifies_nothing(both):
    averaged, _ = both
    x = np.zeros((1, 8, 8, 1), np.float32)
    x[0, 0, 0] = np.inf  # "shift:-2,1" does not show it
    assert not gj.certify(averaged, x, epsilon=1e-6).is_certified.any()


def test_a_file_holds_the_views_and_a_forged_list_is_refused(both, tmp_path):
    averaged, _ = both
    x = np.asarray(draws.uniform(2, (20, 8, 8, 1)))
    labels = np.asarray(averaged(x).prediction)
    path = tmp_path / "c"
    written = gj.certificates.write(averaged, x, labels, epsilon=1e-3, out=path)
    assert written.vra > 0
    found = gj.certificates.check(path)
    assert found["lipschitz"] <= written.lipschitz
    assert found["header"]["network"][0]["op"] == "mean_over_views"
    radii = np.asarray(gj.certify(averaged, x, epsilon=1e-3).radius)
    assert np.allclose(written.radii, radii, rtol=1e-3, atol=1e-5)
    edge, far, short = [["edge", 1, 0]], [["shift", 8, 0]], [["roll", 1]]
    for change in ([], [[["mirror"]]], [[], edge], [far], [short]):
        header, arrays = forge.read(path)
        header["network"][0]["views"] = change
        forged = forge.seal(tmp_path / "forged", header, arrays)
        with pytest.raises(checker.Refused):
            gj.certificates.check(forged)


def test_weights_of_other_views_do_not_load(both):
    averaged, plain = both
    given = {"input_shape": (8, 8, 1), "digest": averaged.digest}
    with pytest.raises(ValueError, match="digest"):
        gj.freezing.from_arrays(plain.net, averaged.arrays(), **given)
    earlier = {name: a for name, a in averaged.arrays().items() if name != "longest"}
    with pytest.raises(ValueError, match="views"):
        gj.freezing.from_arrays(averaged.net, earlier, **given, digest_version=1)


@pytest.mark.parametrize(
    "word",
    [
        "resize:0.9", "reflect:1,0", "edge:1,1", "shift", "shift:1", "shift:1,2,3", "shift:a,b",
        "shift:0.5,0", "shift:1_0,0", "mirror:1", "identity:1", "", "rotate:90", "mirror,shift:1,0",
    ],
)  # fmt: skip
def test_what_is_no_view_is_refused_with_what_is(small_net, word):
    with pytest.raises(ValueError, match=r"no view\. A view moves pixels"):
        dataclasses.replace(small_net[0], views=("identity", word))


def test_other_lists_that_make_no_sense(small_net):
    net, variables, _ = small_net
    with pytest.raises(ValueError, match="twice"):
        dataclasses.replace(net, views=("mirror", "mirror"))
    for words in (("identity", "mirror+mirror"), ("shift:0,0", "identity")):
        with pytest.raises(ValueError, match="twice, in other words, for images of 8 x 8"):
            views.stack(words, jnp.zeros((1, 8, 8, 1)))
    with pytest.raises(TypeError, match="sequence of text"):
        views.parse("mirror")
    with pytest.raises(ValueError, match=r"by 8 pixels, but it has 8"):
        gj.freeze(dataclasses.replace(net, views=("shift:8,0",)), variables, input_shape=(8, 8, 1))


def test_training_sees_one_view_unless_told(small_net):
    net, variables, _ = small_net
    x, norms = draws.uniform(3, (2, 8, 8, 1)), gj.PowerIteration(steps=1)

    def scores(net, *, is_training):
        @jax.jit
        def made(variables):
            told = {"norms": norms, "is_training": is_training, "mutable": ["spectral"]}
            return net.apply(variables, x, **told)[0].values

        return np.asarray(made(variables))

    plain = scores(net, is_training=False)
    averaged = dataclasses.replace(net, views=WORDS)
    assert np.array_equal(scores(averaged, is_training=True), plain)
    evaluated = scores(averaged, is_training=False)
    assert not np.allclose(evaluated, plain)
    trained = dataclasses.replace(averaged, is_trained_on_views=True)
    assert np.array_equal(scores(trained, is_training=True), evaluated)
