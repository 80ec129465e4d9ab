"""Files that claim more than is true, each sealed again with fitting digests: all refused.

Every forgery is one function; it changes a genuine file and returns what the refusal must say. Each
is tried with several seeds on two networks, two hundred and forty files in all.
"""

from fractions import Fraction

import numpy as np
import pytest

from gloro_jax import certificates
from gloro_jax.certificates import check_certificate as checker
from gloro_jax.models import GloroCNN
from tests.certificates import forge
from tests.certificates.test_certificates import build, frozen_net, some_images

SEEDS = range(4)


@pytest.fixture(scope="module", params=["convolutions", "residual, dense"])
def genuine(request, tmp_path_factory):
    if request.param == "convolutions":
        model = GloroCNN(convs=((6, 3, 1), (8, 4, 2)), dense=(12,), num_classes=3)
        frozen = frozen_net(model.build().body, (8, 8, 1))
    else:
        frozen = build(request.param, seed=0)
    images = some_images(frozen)[:24]
    labels = np.random.default_rng(1).integers(0, 3, len(images))
    folder = tmp_path_factory.mktemp("genuine")
    radii = certificates.write(frozen, images, labels, epsilon=1, out=folder / "radii").radii
    epsilon, out = Fraction(float(np.median(radii))).limit_denominator(10**4), folder / "c"
    written = certificates.write(frozen, images, labels, epsilon=epsilon, out=out)
    assert 4 < written.is_certified.sum() < len(images)
    return frozen, images, labels, out


def linear(header, rng, op=None):
    steps = [s for s in checker.every(header["network"]) if s["op"] in checker.LINEAR]
    steps = [s for s in steps if op in (None, s["op"])]
    return steps[rng.integers(len(steps))]


def certified(arrays, rng):
    return rng.choice(np.nonzero(arrays["radius"] > 0)[0])


def bound_below_the_truth(header, arrays, rng):
    claim = header["norms"][linear(header, rng)["layer"]]
    claim["upper"] *= 1 - 10.0 ** -rng.uniform(0.1, 4)
    return "is not proved: it is too small"


def bound_slightly_below_the_truth(header, arrays, rng):
    # Three millionths below the claim, which is about half a millionth above the truth.
    claims = [c for c in header["norms"].values() if c["method"] != "torus"]
    claims[rng.integers(len(claims))]["upper"] *= 1 - 3e-6
    return "is not proved: it is too small"


def k_below_the_product(header, arrays, rng):
    header["lipschitz"] *= 1 - 10.0 ** -rng.uniform(0.1, 4)
    return "K is stated as"


def margin_raised(header, arrays, rng):
    point = certified(arrays, rng)
    arrays["margin"][point] += 10.0 ** -rng.uniform(0, 6)
    return f"the margin claimed of point [{point}]"


def needed_margin_lowered(header, arrays, rng):
    point = rng.integers(len(arrays["needed"]))
    arrays["needed"][point] *= 1 - 10.0 ** -rng.uniform(0.1, 6)
    return f"the needed margin claimed of point [{point}]"


def radius_raised(header, arrays, rng):
    point = certified(arrays, rng)
    arrays["radius"][point] *= 1 + 10.0 ** -rng.uniform(0, 5)
    return f"the radius claimed of point [{point}]"


def radius_where_there_is_none(header, arrays, rng):
    point = rng.integers(len(arrays["radius"]))
    arrays["prediction"][point] = (arrays["prediction"][point] + 1) % 3
    arrays["rival"][point] = (arrays["prediction"][point] + 1) % 3
    return f"claimed of point [{point}]"


def prediction_changed(header, arrays, rng):
    point = certified(arrays, rng)
    arrays["prediction"][point] = arrays["rival"][point]
    return f"the prediction claimed of point [{point}]"


def mark_added(header, arrays, rng):
    point = rng.choice(np.nonzero(arrays["is_certified"] == 0)[0])
    arrays["is_certified"][point] = 1
    return f"the mark claimed of point [{point}]"


def rival_is_a_weaker_one(header, arrays, rng):
    point = rng.integers(len(arrays["rival"]))
    others = {0, 1, 2} - {int(arrays["prediction"][point]), int(arrays["rival"][point])}
    arrays["rival"][point] = others.pop()
    arrays["margin"][point], arrays["needed"][point] = -1e6, 1e6
    return f"the rival claimed of point [{point}]"


def epsilon_raised(header, arrays, rng):
    header["epsilon"]["numerator"] *= 2 + int(rng.integers(8))
    return "the needed margin claimed"


def epsilon_raised_with_needs(header, arrays, rng):
    factor = 2 + int(rng.integers(8))
    header["epsilon"]["numerator"] *= factor
    arrays["needed"] *= factor * (1 + 1e-12)
    return "the rival|the mark"


def layer_missing(header, arrays, rng):
    steps = header["network"]
    gone = steps.pop(rng.integers(len(steps)))
    if gone["op"] in checker.LINEAR:
        header["norms"].pop(gone["layer"])
    if gone["op"] == "sum":
        for step in checker.every([gone]):
            header["norms"].pop(step.get("layer"), None)
    return "claimed of point|does not fit|do not fit|is damaged|is stated"


def layers_reordered(header, arrays, rng):
    steps = header["network"]
    i = rng.integers(len(steps) - 1)
    steps[i], steps[i + 1] = steps[i + 1], steps[i]
    return "claimed of point|does not fit|do not fit|is damaged|of shape"


def padded(header):
    steps = checker.every(header["network"])
    return next(s for s in steps if s["op"] == "conv" and s["pads"] != [[0, 0], [0, 0]])


def pad_shorter(header, arrays, rng):
    step = padded(header)
    side = rng.integers(2)
    axis = rng.integers(2)
    step["pads"][axis][side] -= 1
    header["norms"][step["layer"]]["pads"] = step["pads"]
    return "claimed of point|does not fit|do not fit|is damaged|differ in shape"


def pad_shorter_in_the_claim(header, arrays, rng):
    header["norms"][padded(header)["layer"]]["pads"] = [[0, 0], [0, 0]]
    return "for another kernel, image size, stride"


def claim_for_another_size(header, arrays, rng):
    step = linear(header, rng, "conv")
    header["norms"][step["layer"]]["image_size"] = [4, 4]
    return "for another kernel, image size, stride"


def weight_changed(header, arrays, rng):
    kernel = arrays[linear(header, rng)["kernel"]]
    kernel.flat[rng.integers(kernel.size)] += 10.0 ** -rng.uniform(-1, 1)
    return "claimed of"


def weight_is_nan(header, arrays, rng):
    kernel = arrays[linear(header, rng)["kernel"]]
    kernel.flat[rng.integers(kernel.size)] = rng.choice([np.nan, np.inf, -np.inf])
    return "holds NaN or infinity"


def weights_in_float16(header, arrays, rng):
    name = linear(header, rng)["kernel"]
    arrays[name] = arrays[name].astype(np.float16)
    return "has type F16"


def point_twice(header, arrays, rng):
    arrays["index"][rng.integers(1, 24)] = arrays["index"][0]
    return "a point is there twice"


def point_numbered_below_zero(header, arrays, rng):
    arrays["index"][rng.integers(24)] = -1
    return "index [-1] is out of range"


def label_of_no_class(header, arrays, rng):
    arrays["label"][rng.integers(24)] = rng.choice([-1, 3])
    return "out of range"


def number_is_nan(header, arrays, rng):
    name = rng.choice(["margin", "needed", "radius"])
    arrays[name][rng.integers(24)] = np.nan
    return f"{name} .* is out of range"


def norm_is_negative(header, arrays, rng):
    claim = header["norms"][linear(header, rng)["layer"]]
    claim["upper"] *= -1
    return "is not proved"


def wrong_method(header, arrays, rng):
    claim = header["norms"][linear(header, rng, "conv")["layer"]]
    claim["method"] = "trust me"
    return "'trust me' is not known here"


def patches_that_overlap(header, arrays, rng):
    header["norms"][padded(header)["layer"]]["method"] = "matrix"
    return "the windows of .* overlap"


def unknown_layer(header, arrays, rng):
    header["network"].insert(int(rng.integers(3)), {"op": "tanh"})
    return "layer 'tanh' has no proof"


def overlapping_max_pool(header, arrays, rng):
    size = header["input"]["shape"][:2]
    step = {"op": "max_pool", "image_size": size, "window": [3, 3], "strides": [1, 1]}
    header["network"].insert(0, {**step, "pads": [[1, 1], [1, 1]]})
    return "whose windows overlap has no proof"


def other_semantics(header, arrays, rng):
    header["semantics"] = "executed"
    return "semantics 'executed' is not known here"


FORGERIES = [
    bound_below_the_truth, bound_slightly_below_the_truth, k_below_the_product, margin_raised,
    needed_margin_lowered, radius_raised, radius_where_there_is_none, prediction_changed,
    mark_added, rival_is_a_weaker_one, epsilon_raised, epsilon_raised_with_needs, layer_missing,
    layers_reordered, pad_shorter, pad_shorter_in_the_claim, claim_for_another_size, weight_changed,
    weight_is_nan, weights_in_float16, point_twice, point_numbered_below_zero, label_of_no_class,
    number_is_nan, norm_is_negative, wrong_method, patches_that_overlap, unknown_layer,
    overlapping_max_pool, other_semantics,
]  # fmt: skip


HALVES = [SEEDS[:2], pytest.param(SEEDS[2:], marks=pytest.mark.more)]


@pytest.mark.parametrize("seeds", HALVES, ids=str)
@pytest.mark.parametrize("change", FORGERIES, ids=lambda f: f.__name__)
def test_a_forgery_is_refused_with_the_right_reason(change, genuine, tmp_path, seeds):
    _, _, _, out = genuine
    for seed in seeds:
        header, arrays = forge.read(out)
        reason = change(header, arrays, np.random.default_rng(seed))
        path = forge.seal(tmp_path / f"forged{seed}", header, arrays)
        pattern = reason.replace("[", r"\[").replace("]", r"\]")
        with pytest.raises(certificates.Refused, match=pattern):
            certificates.check(path)


def test_a_summary_that_the_points_do_not_give_is_refused(genuine, tmp_path):
    header, arrays = forge.read(genuine[3])
    is_right = (arrays["prediction"] == arrays["label"]) & (arrays["radius"] > 0)
    assert header["summary"]["verified"] == sum(is_right & (arrays["is_certified"] == 1))
    header["summary"]["verified"] += 1
    path = forge.save(tmp_path / "c", header, arrays)
    with pytest.raises(certificates.Refused, match="the points give another summary"):
        certificates.check(path)


@pytest.mark.parametrize("seed", SEEDS)
def test_labels_inputs_and_weights_are_compared_with_where_they_come_from(genuine, tmp_path, seed):
    frozen, images, labels, out = genuine
    rng = np.random.default_rng(seed)
    run = (certificates.describe(frozen), certificates.weights(frozen))
    certificates.check(out, data=(images, labels), run=run)
    point = rng.integers(len(images))

    header, arrays = forge.read(out)
    arrays["label"][point] = (arrays["label"][point] + 1) % 3
    path = forge.seal(tmp_path / "label", header, arrays)
    certificates.check(path, run=run)  # nothing inside the file speaks against it
    with pytest.raises(certificates.Refused, match=rf"label of point \[{point}\] is not"):
        certificates.check(path, data=(images, labels))

    with pytest.raises(certificates.Refused, match=r"the data hold \d+ images, not \d+"):
        certificates.check(path, data=(images[:-1], labels[:-1]))

    changed, epsilon = images.copy(), Fraction(*header["epsilon"].values())
    changed[(point, *(rng.integers(n) for n in images.shape[1:]))] ^= 1
    path = certificates.write(frozen, changed, labels, epsilon=epsilon, out=tmp_path / "x").path
    certificates.check(path, run=run)
    with pytest.raises(certificates.Refused, match="inputs are not those of the data"):
        certificates.check(path, data=(images, labels))

    arrays = {name: array.copy() for name, array in certificates.weights(frozen).items()}
    name = sorted(arrays)[rng.integers(len(arrays))]
    arrays[name].flat[0] += 1e-6
    with pytest.raises(certificates.Refused, match=f"not those of the run: .*{name}"):
        certificates.check(out, run=(run[0], arrays))
    other = {**run[0], "network": run[0]["network"][::-1]}
    with pytest.raises(certificates.Refused, match="layers are not those of the run"):
        certificates.check(out, run=(other, run[1]))


def norm_raised(header, arrays, rng):
    layer = linear(header, rng)["layer"]
    header["norms"][layer]["upper"] *= 1 + 10.0 ** -rng.uniform(0, 4)
    return f"{layer} is claimed to be"


def norm_and_k_raised(header, arrays, rng):
    layer = linear(header, rng)["layer"]
    header["norms"][layer]["upper"] *= 1.5
    header["lipschitz"] *= 1.6
    return f"{layer} is claimed to be"


def k_raised(header, arrays, rng):
    header["lipschitz"] *= 1 + 10.0 ** -rng.uniform(0, 4)
    return "K is claimed to be"


def epsilon_lowered(header, arrays, rng):
    header["epsilon"]["denominator"] *= 2
    return "of 24 points less is claimed"


def margin_lowered(header, arrays, rng):
    point = rng.integers(24)
    arrays["margin"][point] -= 1.0
    arrays["is_certified"][point] = 0
    return


def radius_lowered(header, arrays, rng):
    arrays["radius"] *= 0.5
    arrays["is_certified"][:] = 0
    return


def mark_removed(header, arrays, rng):
    arrays["is_certified"][rng.choice(np.nonzero(arrays["is_certified"])[0])] = 0
    return "of 1 points less is claimed"


WEAKER = [norm_raised, norm_and_k_raised, k_raised, epsilon_lowered, margin_lowered]
WEAKER += [radius_lowered, mark_removed]


@pytest.mark.parametrize("change", WEAKER, ids=lambda f: f.__name__)
def test_a_weaker_claim_that_is_true_is_accepted_and_named(change, genuine, tmp_path):
    for seed in SEEDS:
        header, arrays = forge.read(genuine[3])
        note = change(header, arrays, np.random.default_rng(seed))
        path = forge.seal(tmp_path / f"weaker{seed}", header, arrays)
        notes = certificates.check(path)["notes"]
        assert note is None or any(note in words for words in notes), notes


def test_a_file_cut_anywhere_or_with_any_byte_changed_is_refused(genuine, tmp_path):
    content, path = genuine[3].read_bytes(), tmp_path / "c"
    rng = np.random.default_rng(0)
    for cut in [0, 1, 7, 8, 9, *rng.integers(10, len(content), 40), len(content) - 1]:
        path.write_bytes(content[:cut])
        with pytest.raises(certificates.Refused):
            certificates.check(path)
    path.write_bytes(content + b"x")
    with pytest.raises(certificates.Refused, match="goes on after its last array"):
        certificates.check(path)
    for place in rng.integers(8, len(content), 60):
        changed = bytearray(content)
        changed[place] ^= 1 << rng.integers(8)
        path.write_bytes(bytes(changed))
        with pytest.raises(certificates.Refused):
            certificates.check(path)


@pytest.mark.parametrize(
    "nonsense",
    [b"", b"{}", b"\x02\0\0\0\0\0\0\0{}", b"\x02\0\0\0\0\0\0\0[]", b"\xff" * 64],
    ids=["empty", "short", "no metadata", "no object", "huge header"],
)
def test_what_is_no_certificate_is_refused(nonsense, tmp_path):
    (tmp_path / "c").write_bytes(nonsense)
    with pytest.raises(certificates.Refused):
        certificates.check(tmp_path / "c")


def test_a_header_that_repeats_a_key_or_holds_nonsense_is_refused(genuine, tmp_path):
    path = tmp_path / "c"
    for change in (
        lambda h: h.update(epsilon={"numerator": 1, "denominator": 0}),
        lambda h: h.update(epsilon={"numerator": True, "denominator": 2}),
        lambda h: h.update(lipschitz=float("nan")),
        lambda h: h.update(lipschitz=-1.0),
        lambda h: h.update(network=[]),
        lambda h: h.update(network=None),
        lambda h: h.update(norms=[]),
        lambda h: h.update(head={}),
        lambda h: h["network"].insert(0, {"op": "sum", "branches": []}),
        lambda h: h["network"].insert(0, {"op": ["conv"]}),
        lambda h: h["network"].insert(0, {"op": "normalize", "mean": [0.0], "factor": [1e-3]}),
        lambda h: h["network"].insert(0, {"op": "space_to_depth", "block": 3}),
        lambda h: h["input"].update(shape=[1]),
    ):
        header, arrays = forge.read(genuine[3])
        change(header)
        forge.save(path, header, arrays)
        with pytest.raises(certificates.Refused):
            certificates.check(path)


def crafted(folder, steps, weights, *, x, prediction, upper, epsilon=(1, 10), radius=1.0):
    """A file from nothing: a chain of steps, and the rest as a forger would have it."""
    arrays = {name: np.asarray(w, np.float32) for name, w in weights.items()}
    x = np.asarray(x, np.float32)
    count = len(x)
    points = {
        "index": np.arange(count),
        "label": np.full(count, prediction),
        "prediction": np.full(count, prediction),
        "rival": np.full(count, 1 - prediction),
    }
    arrays |= {name: np.asarray(values, np.int64) for name, values in points.items()}
    arrays |= {"margin": np.full(count, -1e30), "needed": np.full(count, 1e30)}
    arrays |= {"radius": np.full(count, radius), "is_certified": np.zeros(count, np.uint8)}
    norms = {step["layer"]: {"upper": upper, "method": "matrix"} for step in checker.every(steps)
             if "layer" in step}  # fmt: skip
    header = {
        **checker.KNOWN,
        "version": 1,
        "network": steps,
        "head": {"kernel": "head", "bias": "head bias"},
        "input": {"shape": list(x.shape[1:])},
        "norms": norms,
        "lipschitz": 1e300,
        "epsilon": dict(zip(("numerator", "denominator"), epsilon, strict=True)),
        "source": {"split": "test"},
        "arrays": {},
    }
    return forge.seal(folder / "crafted", header, arrays | {"inputs": x})


def linear_step(op, layer, kernel, bias=None):
    return {"op": op, "layer": layer, "kernel": kernel, "bias": bias}


def test_two_layers_of_one_name_are_refused(tmp_path):
    # The same bytes as (256, 1), of norm 4, and as (16, 16), of norm 1.
    eye = np.eye(16, dtype=np.float32)
    steps = [linear_step("dense", "a", "tall"), linear_step("dense", "a", "square")]
    weights = {
        "tall": eye.reshape(256, 1),
        "square": eye,
        "head": np.eye(16, 2),
        "head bias": [0, 9],
    }
    x = np.zeros((1, 256))
    path = crafted(tmp_path, steps, weights, x=x, prediction=1, upper=4.1)
    with pytest.raises(certificates.Refused, match="one layer name stands for two layers"):
        certificates.check(path)


@pytest.mark.slow
def test_errors_of_tiny_activations_are_counted(tmp_path):
    # Values near 1e-163 have squares of 0; later layers bring them back to size.
    down, up = np.float32(2.0**-135), np.float32(2.0**127)
    steps = [linear_step("dense", "first", "first", "one")]
    steps += [linear_step("scale", f"down{i}", "down") for i in range(4)]
    lost = [[linear_step("scale", "lost", "lost")]] * 1000
    steps.append({"op": "sum", "branches": [[], *lost, [linear_step("scale", "minus", "minus")]]})
    steps += [linear_step("scale", f"up{i}", "up") for i in range(4)]
    steps.append(linear_step("scale", "last", "last"))
    weights = {
        "first": [[2.0**-149]], "one": [1.0], "down": down, "up": up, "minus": -1.0,
        "lost": 2.0**-53 * (1 - 2.0**-10), "last": 2.0**72,
        "head": [[1.0, 0.0]], "head bias": [0.0, 0.06],
    }  # fmt: skip
    path = crafted(tmp_path, steps, weights, x=np.zeros((1, 1)), prediction=1, upper=3e38)
    with pytest.raises(certificates.Refused, match="claimed of point"):
        certificates.check(path)


def test_an_input_without_axes_is_refused(tmp_path):
    steps = [{"op": "normalize", "mean": [0.0, 10.0], "factor": [1.0, 1.0]}, {"op": "flatten"}]
    weights = {"head": [[1.0, 0.0]], "head bias": [0.0, 5.0]}
    path = crafted(tmp_path, steps, weights, x=[10.0, 10.0], prediction=0, upper=1.0)
    with pytest.raises(certificates.Refused, match="inputs do not fit"):
        certificates.check(path)


def test_many_branches_are_added_up_from_above():
    small = 2.0**-53 * (1 - 2.0**-20)
    net = checker.Network.__new__(checker.Network)
    net.norms = {"s": small}
    step = {"op": "sum", "branches": [[], *[[{"op": "scale", "layer": "s"}]] * 40000]}
    assert Fraction(net.constant(step)) >= 1 + 40000 * Fraction(small)


def test_a_prediction_that_nothing_proves_does_not_count_as_correct(tmp_path):
    # A huge norm makes the allowance of a score so large that any class could be the first.
    steps = [linear_step("dense", "a", "a")]
    weights = {"a": [[1.0]], "head": [[1.0, 0.0]], "head bias": [1.0, 100.0]}
    options = {"x": np.zeros((1, 1)), "prediction": 0, "upper": 1e20, "radius": 0.0}
    path = crafted(tmp_path, steps, weights, **options)
    header, arrays = forge.read(path)
    header["summary"]["correct"] = 1
    with pytest.raises(certificates.Refused, match=r"another summary|is not proved"):
        certificates.check(forge.save(tmp_path / "c", header, arrays))


def test_a_zero_kernel_does_not_keep_the_checker_busy(tmp_path):
    steps = [linear_step("dense", "a", "a")]
    weights = {"a": [[0.0]], "head": [[1.0, 0.0]], "head bias": [0.0, 1.0]}
    path = crafted(tmp_path, steps, weights, x=np.zeros((1, 1)), prediction=0, upper=1.0)
    with pytest.raises(certificates.Refused, match="claimed of point"):
        certificates.check(path)


def test_what_is_printed_says_how_much_was_compared_and_holds_no_control_characters(
    genuine, tmp_path
):
    _, images, labels, out = genuine
    more = (np.concatenate([images, images]), np.concatenate([labels, labels]))
    assert "24 of its 48 images" in certificates.check(out, data=more)["words"][1]
    with pytest.raises(certificates.Refused):
        certificates.check(out, data=(images, np.eye(3)[labels]))
    header, arrays = forge.read(out)
    step = next(s for s in checker.every(header["network"]) if "layer" in s)
    header["norms"]["x\n  weights: those of the run\x1b[0m"] = header["norms"].pop(step["layer"])
    with pytest.raises(certificates.Refused) as refusal:
        certificates.check(forge.save(tmp_path / "c", header, arrays))
    assert str(refusal.value).isprintable()
