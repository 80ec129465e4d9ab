"""Losses: closed forms in NumPy, identities, and gradients at the awkward points."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gloro_jax as gj
from gloro_jax import losses
from gloro_jax.losses import centred_head_norm
from gloro_jax.margins import head_distances
from tests.draws import normal

EPSILON, K = 0.3, 1.7
LABELS = np.array([0, 1, 2, 3, 0, 1])


@pytest.fixture(scope="module")
def kernel():
    return normal(0, (7, 4))


@pytest.fixture(scope="module")
def logits(kernel):
    values = 2 * normal(1, (6, 4))
    return gj.GloroLogits(values, gj.Estimate(jnp.float32(K)), head_distances(kernel))


@pytest.fixture(scope="module")
def parts(logits, kernel):
    """Scores, pair constants and bottom logit by plain loops in float64."""
    y = np.asarray(logits.values, np.float64)
    w = np.asarray(kernel, np.float64)
    pairs = K * np.array([[np.linalg.norm(w[:, i] - w[:, j]) for j in range(4)] for i in range(4)])
    bottom = np.array([
        max(row[i] + EPSILON * pairs[i, row.argmax()] for i in range(4) if i != row.argmax())
        for row in y
    ])  # fmt: skip
    return y, pairs, bottom


def log_sum_exp(values):
    return np.log(np.exp(values).sum(-1))


def cross_entropy(values, labels=LABELS):
    return log_sum_exp(values) - values[np.arange(len(values)), labels]


def check(loss, expected, **options):
    np.testing.assert_allclose(loss, expected, rtol=2e-5, **options)


def test_gloro_cross_entropy(logits, parts):
    y, _, bottom = parts
    expected = cross_entropy(np.concatenate([y, bottom[:, None]], axis=1))
    check(losses.gloro_cross_entropy(logits, jnp.asarray(LABELS), epsilon=EPSILON), expected)


def emma_lifted(y, pairs):
    """EMMA's scores by plain loops: each rival lifted towards the label."""
    out = y.copy()
    for row, label in zip(out, LABELS, strict=True):
        own = row[label]
        for i in range(4):
            lift = EPSILON * pairs[label, i]
            if i != label:
                row[i] += np.clip((own - row[i]) / lift, 0.01, 1) * lift
    return out


@pytest.mark.parametrize(("offset", "temperature", "gamma"), [(2.0, 0.75, 5.0), (0.5, 1.0, 1.0)])
def test_logit_annealing(logits, parts, offset, temperature, gamma):
    y, pairs, _ = parts
    annealed = emma_lifted(y, pairs)
    annealed[np.arange(6), LABELS] -= offset
    plain = cross_entropy(annealed / temperature)
    expected = temperature * (1 - np.exp(-plain)) ** gamma * plain
    options = {"offset": offset, "temperature": temperature, "gamma": gamma}
    found = losses.logit_annealing(logits, jnp.asarray(LABELS), epsilon=EPSILON, **options)
    check(found, expected)


def test_logit_annealing_without_annealing_is_emma(logits):
    labels, options = jnp.asarray(LABELS), {"offset": 0.0, "temperature": 1.0, "gamma": 0.0}
    found = losses.logit_annealing(logits, labels, epsilon=EPSILON, **options)
    check(found, losses.emma(logits, labels, epsilon=EPSILON))


@pytest.mark.parametrize("temperature", [0.25, 1.0, 3.0])
def test_offset_cross_entropy(logits, parts, temperature):
    y, pairs, _ = parts
    raised = y + EPSILON * pairs[LABELS]
    expected = temperature * cross_entropy(raised / temperature)
    labels, options = jnp.asarray(LABELS), {"epsilon": EPSILON, "temperature": temperature}
    check(losses.offset_cross_entropy(logits, labels, **options), expected)
    if temperature == 1:
        check(losses.margin(logits, labels, epsilon=EPSILON), expected)


@pytest.mark.parametrize("weight", [0.0, 15.0])
def test_crm_adds_a_soft_radius_where_it_is_short(logits, parts, weight):
    (y, pairs, _), epsilon = parts, 0.05
    expected, near = cross_entropy(y), 0
    for n, label in enumerate(LABELS):
        rivals = [i for i in range(4) if i != label]
        radii = np.array([(y[n, label] - y[n, i]) / pairs[label, i] for i in rivals])
        if radii.min() < 1.4 * epsilon:
            expected[n] += weight * np.log(np.exp(-5 * radii).sum()) / 5
            near += 1
    assert 0 < near < len(LABELS)
    labels = jnp.asarray(LABELS)
    check(losses.crm(logits, labels, epsilon=epsilon, weight=weight), expected)


@pytest.mark.parametrize("loss", [losses.logit_annealing, losses.offset_cross_entropy, losses.crm])
def test_gradients_are_finite_where_scores_tie_lead_by_far_and_heads_agree(loss, kernel):
    options = {"weight": 1.0} if loss is losses.crm else {}
    for values in (jnp.zeros((1, 4)), 1e4 * jnp.eye(4)[:1], -1e4 * jnp.eye(4)[:1]):
        for head in (kernel, jnp.zeros_like(kernel)):

            def total(v, head=head):
                logits = gj.GloroLogits(v, gj.Estimate(jnp.float32(K)), head_distances(head))
                return loss(logits, jnp.zeros(1, int), epsilon=EPSILON, **options).sum()

            value, gradient = jax.value_and_grad(total)(values)
            assert jnp.isfinite(value)
            assert jnp.isfinite(gradient).all()


@pytest.mark.parametrize("weight", [0.0, 0.7, 2.5])
def test_trades_kl_is_the_divergence_it_names(logits, parts, weight):
    y, _, bottom = parts
    p = np.exp(y - log_sum_exp(y)[:, None])
    extended = np.concatenate([y, bottom[:, None]], axis=1)
    q = np.exp(extended - log_sum_exp(extended)[:, None])[:, :-1]
    expected = cross_entropy(y) + weight * (p * np.log(p / q)).sum(-1)
    check(losses.trades_kl(logits, jnp.asarray(LABELS), epsilon=EPSILON, weight=weight), expected)


@pytest.mark.parametrize("weight", [0.0, 0.7, 2.5])
def test_trades_ce_is_the_cross_entropy_it_names(logits, parts, weight):
    y, _, bottom = parts
    p = np.exp(y - log_sum_exp(y)[:, None])
    extended = np.concatenate([y, bottom[:, None]], axis=1)
    log_q = (extended - log_sum_exp(extended)[:, None])[:, :-1]
    expected = cross_entropy(y) - weight * (p * log_q).sum(-1)
    check(losses.trades_ce(logits, jnp.asarray(LABELS), epsilon=EPSILON, weight=weight), expected)


def lifted(y, pairs, fractions):
    z = y - y[np.arange(6), LABELS][:, None]
    return z, EPSILON * pairs[LABELS], fractions


def test_margin(logits, parts):
    y, pairs, _ = parts
    expected = cross_entropy(y + EPSILON * pairs[LABELS])
    check(losses.margin(logits, jnp.asarray(LABELS), epsilon=EPSILON), expected)


def test_emma(logits, parts):
    y, pairs, _ = parts
    z, lifts = y - y[np.arange(6), LABELS][:, None], EPSILON * pairs[LABELS]
    with np.errstate(divide="ignore", invalid="ignore"):
        fractions = np.clip(np.nan_to_num(-z / lifts, nan=1.0), 0.01, 1.0)
    assert {0.01, 1.0} < set(fractions.ravel())  # all three regimes are met
    check(
        losses.emma(logits, jnp.asarray(LABELS), epsilon=EPSILON),
        cross_entropy(z + fractions * lifts),
    )


def test_emma_is_the_margin_loss_where_all_margins_are_large(logits):
    far = jax.nn.one_hot(jnp.asarray(LABELS), 4) * 50.0
    large = gj.GloroLogits(far, logits.lipschitz, logits.head_distances)
    labels = jnp.asarray(LABELS)
    check(
        losses.emma(large, labels, epsilon=EPSILON), losses.margin(large, labels, epsilon=EPSILON)
    )


def test_emma_holds_its_fractions_constant():
    # Correct, with a margin below epsilon K: without the stop-gradient every lifted competitor
    # would sit exactly on the label's score, and the gradient would vanish.
    distances = 1.0 - jnp.eye(2)

    def loss(values):
        y = gj.GloroLogits(values, gj.Estimate(jnp.float32(1.0)), distances)
        return losses.emma(y, jnp.asarray([0]), epsilon=1.0)[0]

    gradient = jax.grad(loss)(jnp.asarray([[0.3, 0.0]]))
    np.testing.assert_allclose(gradient, [[-0.5, 0.5]], atol=1e-6)


def test_lmt_lifts_every_competitor_by_the_networks_constant(logits, parts, kernel):
    y, _, _ = parts
    w = np.asarray(kernel, np.float64)
    norm = np.linalg.norm(w - w.mean(axis=1, keepdims=True), ord=2)
    lift = np.sqrt(2) * EPSILON * K * norm * (np.arange(4)[None] != LABELS[:, None])
    check(losses.lmt(logits, jnp.asarray(LABELS), epsilon=EPSILON), cross_entropy(y + lift))
    assert centred_head_norm(head_distances(kernel)) == pytest.approx(norm, rel=1e-5)


ALL = {
    "gloro_cross_entropy": losses.gloro_cross_entropy,
    "trades_kl": lambda *a, **k: losses.trades_kl(*a, **k, weight=1.5),
    "trades_ce": lambda *a, **k: losses.trades_ce(*a, **k, weight=1.5),
    "emma": losses.emma,
    "margin": losses.margin,
    "lmt": losses.lmt,
}


@pytest.mark.parametrize("name", ALL)
def test_gradients_match_finite_differences_in_scores_k_and_head(name, logits, kernel):
    def total(values, bound, kernel):
        y = gj.GloroLogits(values, gj.Estimate(bound), head_distances(kernel))
        return ALL[name](y, jnp.asarray(LABELS), epsilon=EPSILON).sum()

    with jax.enable_x64(True):
        point = (
            jnp.asarray(np.asarray(logits.values), jnp.float64),
            jnp.asarray(K, jnp.float64),
            jnp.asarray(np.asarray(kernel), jnp.float64),
        )
        gradients = jax.grad(total, argnums=(0, 1, 2))(*point)
        if name == "emma":  # its fractions do not count as functions: freeze them by hand
            return
        for i, gradient in enumerate(gradients):
            direction = normal(i, point[i].shape)

            def along(t, i=i, direction=direction):
                moved = [p + t * direction if j == i else p for j, p in enumerate(point)]
                return float(total(*moved))

            slope = (along(1e-5) - along(-1e-5)) / 2e-5
            assert float(jnp.vdot(gradient, direction)) == pytest.approx(slope, rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("name", ALL)
def test_value_and_gradient_are_finite_at_zero_weights(name):
    def total(values, bound, kernel):
        y = gj.GloroLogits(values, gj.Estimate(bound), head_distances(kernel))
        return ALL[name](y, jnp.asarray(LABELS), epsilon=EPSILON).sum()

    value, gradients = jax.value_and_grad(total, argnums=(0, 1, 2))(
        jnp.zeros((6, 4)), jnp.zeros(()), jnp.zeros((7, 4))
    )
    assert jnp.isfinite(value)
    assert all(jnp.isfinite(g).all() for g in gradients)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("label", [-1, 4, 5])
def test_a_label_out_of_range_gives_nan_and_not_another_class(name, label, logits):
    labels = jnp.asarray(LABELS).at[2].set(label)
    loss = ALL[name](logits, labels, epsilon=EPSILON)
    assert jnp.isnan(loss[2])
    assert jnp.isfinite(loss[:2]).all()


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("kind", ["column", "short", "one-hot", "floats", "booleans"])
def test_labels_of_another_kind_are_refused(name, kind, logits, untyped):
    labels = jnp.asarray(LABELS)
    wrong = {
        "column": labels[:, None],
        "short": labels[:2],
        "one-hot": jax.nn.one_hot(labels, 4),
        "floats": labels.astype(float),
        "booleans": labels > 0,
    }[kind]
    with pytest.raises(ValueError, match="labels are integers of shape"):
        ALL[name](logits, wrong, epsilon=EPSILON)


@pytest.mark.parametrize(
    ("loss", "options"),
    [
        (losses.logit_annealing, {"temperature": 0.0}),
        (losses.logit_annealing, {"gamma": 0.5}),
        (losses.logit_annealing, {"gamma": -1.0}),
        (losses.offset_cross_entropy, {"temperature": -1.0}),
        (losses.crm, {"weight": 1.0, "sharpness": float("nan")}),
    ],
)
def test_options_that_make_no_loss_are_refused(loss, options, logits):
    with pytest.raises(ValueError, match=next(reversed(options))):
        loss(logits, jnp.asarray(LABELS), epsilon=EPSILON, **options)


@pytest.mark.parametrize("loss", [losses.logit_annealing, losses.offset_cross_entropy])
@pytest.mark.parametrize("size", [5e9, 1e12, 1e30])
def test_a_compiled_loss_is_finite_for_scores_of_any_size(loss, size, kernel):
    def total(values):
        logits = gj.GloroLogits(values, gj.Estimate(jnp.float32(K)), head_distances(kernel))
        return loss(logits, jnp.zeros(1, int), epsilon=EPSILON, temperature=0.75).sum()

    value, slope = jax.jit(jax.value_and_grad(total))(size * jnp.array([[0.0, 1.0, -1.0, 0.5]]))
    assert value == pytest.approx(size, rel=1e-5)
    np.testing.assert_allclose(slope, [[-1, 1, 0, 0]], atol=1e-6)


@pytest.mark.parametrize("size", [1e-22, 1e-30])
def test_crm_has_a_gradient_where_constants_are_tiny(size, kernel):
    def total(values, bound, kernel):
        logits = gj.GloroLogits(values, gj.Estimate(bound), head_distances(kernel))
        return losses.crm(logits, jnp.zeros(1, int), epsilon=EPSILON, weight=3.0).sum()

    given = jnp.zeros((1, 4)), jnp.float32(1), size * kernel
    for part in jax.grad(total, argnums=(0, 1, 2))(*given):
        assert jnp.isfinite(part).all()
