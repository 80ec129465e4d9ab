"""Bad input, as a user meets it: outside the test suite's type hook, in a process of its own.

Each case is one statement; the process runs them all and reports what each one raised.
"""

import json
import subprocess
import sys

import pytest

PRELUDE = """
import json, sys
import flax.linen as nn, jax, jax.numpy as jnp, numpy as np
import gloro_jax as gj
from gloro_jax import layers
from gloro_jax.data.dataset import Split, check_labels
from gloro_jax.lipschitz.bounded import read_constant
norms = gj.PowerIteration(steps=1)
x = jnp.ones((2, 6, 6, 2))
net = gj.GloroNet(nn.Sequential([layers.Flatten(), layers.Dense(4)]), num_classes=3)
variables = net.init(jax.random.key(0), x, norms=norms)
frozen = gj.freeze(net, variables, input_shape=(6, 6, 2))
logits = net.apply(variables, x, norms=norms)
images, labels = np.zeros((4, 6, 6, 2), np.float32), np.array([0, 1, 2, 0])

class Own(layers.LipschitzLayer):
    fn: object
    def __call__(self, x):
        return self.fn(x)

def damaged(name, value):
    import pathlib, tempfile
    with tempfile.TemporaryDirectory() as folder:
        (pathlib.Path(folder) / "config.json").write_text(json.dumps({"data": {name: value}}))
        gj.runs.read_config(folder)

def donated():
    mine = jax.tree.map(jnp.copy, frozen)
    for leaf in jax.tree.leaves(mine):
        leaf.delete()
    return mine

def own(fn):
    made = gj.GloroNet(nn.Sequential([Own(fn)]), 2)
    head = {"head_kernel": np.eye(4, 2), "head_bias": np.zeros(2)}
    return gj.freeze(made, {"params": head}, input_shape=(4,))
"""

CASES = {
    "gj.certify(frozen, np.zeros((2, 6, 6, 2), np.uint8), epsilon=0.1)":
        ("TypeError", "float32 images in [0, 1], got uint8"),
    "gj.certify(frozen, np.zeros((2, 6, 6, 2)), epsilon=0.1)":
        ("TypeError", "float32 images in [0, 1], got float64"),
    "gj.certify(frozen, [[1.0]], epsilon=0.1)": ("TypeError", "got list"),
    "gj.certify(frozen, x[..., :1], epsilon=0.1)": ("ValueError", "images of shape (6, 6, 2)"),
    "gj.certify(frozen, x, epsilon=float('nan'))": ("ValueError", "positive and finite"),
    "gj.certify(frozen, x, epsilon='0.1x')": ("ValueError", "0.1x"),
    "gj.certify(frozen, x, epsilon=[[1], [1, 2]])": ("ValueError", "epsilon is no array"),
    "gj.certify(frozen, np.ma.array(x), epsilon=0.1)": ("TypeError", "without a mask"),
    "gj.certify(frozen, jax.ShapeDtypeStruct(x.shape, x.dtype), epsilon=0.1)":
        ("TypeError", "got ShapeDtypeStruct"),
    "gj.freeze(net, jax.eval_shape(lambda: variables), input_shape=(6, 6, 2))":
        ("ValueError", "is only a shape"),
    "gj.certified_radius(gj.GloroLogits([1.0], gj.UpperBound(1.0), [[0]]))":
        ("TypeError", "values of GloroLogits are arrays of floating-point numbers, got list"),
    "jax.jit(lambda a: gj.matrix_norm(a).value)(jnp.eye(3))": ("TypeError", "matrix is looked at"),
    "gj.matrix_norm([[1], [3, 4]])": ("ValueError", "matrix is no array of numbers"),
    "own(lambda x: x.apply(np.tanh, lipschitz=1.0))": ("TypeError", "asks for the value"),
    "own(lambda x: x.apply(lambda v: v if v.sum() > 0 else -v, lipschitz=1.0))":
        ("TypeError", "jnp.where in place of if"),
    "own(lambda x: x.apply(lambda v: v, lipschitz=float(jnp.max(jnp.ones(3)))))":
        ("TypeError", "compute constants from NumPy arrays"),
    "own(lambda x: x.apply(None, lipschitz=1.0))": ("TypeError", "takes a function of the"),
    "own(lambda x: x.apply(lambda v: v, lipschitz=1.0, step='relu'))": ("TypeError", "'relu'"),
    "own(lambda x: x.enter)": ("TypeError", "maps a Bounded to a Bounded"),
    "gj.ensembles.Voting([frozen], weights='ab')": ("ValueError", "are real numbers"),
    "gj.ensembles.Voting([frozen], weights=[1j])": ("ValueError", "are real numbers"),
    "gj.ensembles.Voting([frozen], class_names=[1])": ("ValueError", "a list of names for each"),
    "gj.ensembles.Selective(frozen)": ("TypeError", "takes a list of members"),
    "gj.ensembles.Selective('ab')": ("TypeError", "takes a list of members"),
    "gj.ensembles.Selective([frozen], alpha='a')": ("ValueError", "alpha is a probability"),
    "gj.certify(donated(), x, epsilon=0.1)": ("ValueError", "donate_argnums"),
    "donated()(x)": ("ValueError", "donate_argnums"),
    "gj.export.write(donated(), out='there', epsilon=0.1)": ("ValueError", "donate_argnums"),
    "gj.verifiers.Crown().verify(donated(), images, labels, norm='l2', radius=0.1)":
        ("ValueError", "donate_argnums"),
    "gj.verifiers.Smoothing(sigma=0.1, seed=2**70)": ("ValueError", "seed is a whole number"),
    "gj.verifiers.Crown().verify(frozen, x, [[1], [1, 2]], radius=0.1)":
        ("ValueError", "labels is no array of numbers"),
    "gj.certify(logits, x, epsilon=0.1)": ("TypeError", "certify takes a FrozenNet"),
    "gj.certify(variables, x, epsilon=0.1)": ("TypeError", "certify takes a FrozenNet"),
    "gj.certified_radius(logits)": ("TypeError", "needs an UpperBound"),
    "gj.freeze(net, {}, input_shape=(6, 6, 2))": ("ValueError", "needs variables['params']"),
    "gj.freeze(nn.Dense(3), variables, input_shape=(6,))": ("TypeError", "takes a gj.GloroNet"),
    "gj.freeze(net, variables, input_shape=(0, 6, 2))": ("ValueError", "input_shape is the shape"),
    "gj.freeze(net, variables, input_shape=x.shape)":
        ("ValueError", "Without the batch: (6, 6, 2)"),
    "gj.freeze(net, variables, input_shape=6)": ("ValueError", "got 6"),
    "gj.init_spectral(net, variables, key=jax.random.key(0), input_shape=x.shape)":
        ("ValueError", "Without the batch: (6, 6, 2)"),
    "gj.certify(frozen, x * 255, epsilon=0.1)": ("ValueError", "x / 255"),
    "gj.certify(frozen, np.full((1, 6, 6, 2), 17, np.float32), epsilon=0.1)":
        ("ValueError", "values up to 17"),
    "gj.losses.emma(jnp.ones((2, 3)), labels[:2], epsilon=0.1)":
        ("TypeError", "plain scores carry no Lipschitz bound"),
    "gj.losses.trades_kl(jnp.ones((2, 3)), labels[:2], epsilon=0.1, weight=1.0)":
        ("TypeError", "plain scores carry no Lipschitz bound"),
    "gj.losses.gloro_cross_entropy(logits.values, labels[:2], epsilon=0.1)":
        ("TypeError", "plain scores carry no Lipschitz bound"),
    "gj.losses.lmt(logits.values, labels[:2], epsilon=0.1)": ("TypeError", "plain scores"),
    "gj.losses.margin(logits.values, labels[:2], epsilon=0.1)": ("TypeError", "plain scores"),
    "gj.losses.trades_ce(logits.values, labels[:2], epsilon=0.1, weight=1.0)":
        ("TypeError", "plain scores"),
    "gj.evaluation.verified_robust_accuracy(frozen, [(images, labels)], epsilon=None)":
        ("ValueError", "one positive number"),
    "gj.evaluation.verified_robust_accuracy(frozen, (images, labels), epsilon=0.1)":
        ("ValueError", "[(images, labels)]"),
    "gj.export.write(frozen, out='nowhere', epsilon=None)": ("ValueError", "no number such as"),
    "gj.bottom_logit(logits.values, epsilon=0.1)": ("TypeError", "plain scores"),
    "gj.certified_radius(logits.values)": ("TypeError", "plain scores"),
    "gj.training.Session(resume_step=3)": ("ValueError", "is_resuming=True"),
    "net.apply(variables, x, norms=None)": ("TypeError", "norms says how"),
    "net.apply(variables, x.astype(int), norms=norms)": ("TypeError", "floating-point array"),
    "layers.Dense(3).init(jax.random.key(0), x)": ("TypeError", "takes a Bounded"),
    "layers.MinMax().init(jax.random.key(0), x)": ("TypeError", "takes a Bounded"),
    "gj.PowerIteration(steps=0)": ("ValueError", "steps >= 1"),
    "gj.PowerIteration(steps=2.5)": ("ValueError", "steps >= 1"),
    "gj.GloroNet(layers.Flatten(), 1).init(jax.random.key(0), x, norms=norms)":
        ("ValueError", "at least 2 classes"),
    "gj.GloroNet(layers.Flatten(), '3')": ("TypeError", "num_classes is an integer, got '3'"),
    "gj.GloroNet(layers.Flatten(), 2.5)": ("TypeError", "num_classes is an integer, got 2.5"),
    "gj.GloroNet([layers.Flatten()], 3)": ("TypeError", "nn.Sequential([...])"),
    "gj.GloroNet(layers.Flatten, 3)": ("TypeError", "body is a module from Bounded to Bounded"),
    "gj.UpperBound(10**400)": ("ValueError", "at least 0, got 1000"),
    "read_constant(10**400, 'upper')": ("ValueError", "finite and at least 0, got lipschitz=1000"),
    "gj.freeze(net, None, input_shape=(6, 6, 2))": ("TypeError", "collections that net.init"),
    "gj.freeze(net, {'params': jax.tree.map(lambda a: np.full(a.shape, 'a'), "
    "variables['params'])}, input_shape=(6, 6, 2))": ("ValueError", "or no numbers at all"),
    "gj.load(None)": ("TypeError", "A path is text or a pathlib.Path, got NoneType"),
    "gj.GloroNet(layers.MinMax(), 3).init(jax.random.key(0), x, norms=norms)":
        ("ValueError", "End it with Flatten"),
    "gj.conv_norm(np.ones((3, 3, 1, 1)), image_size=(5, 5), strides=1, padding='same')":
        ("ValueError", "padding is 'SAME'"),
    "gj.matrix_norm(1j * np.eye(2))": ("TypeError", "real numbers, got type complex128"),
    "gj.conv_norm(np.ones((1, 1, 1, 1), complex), image_size=(5, 5), strides=1, padding=0)":
        ("TypeError", "real numbers, got type complex128"),
    "gj.matrix_norm(np.array([['1', '2']]))": ("TypeError", "real numbers, got type <U1"),
    "gj.matrix_norm(np.eye(2, dtype=object))": ("TypeError", "real numbers, got type object"),
    "gj.matrix_norm(np.eye(2) > 0)": ("TypeError", "real numbers, got type bool"),
    "gj.matrix_norm(np.ma.masked_array(np.eye(2), np.eye(2) > 0))": ("TypeError", "a masked array"),
    "gj.matrix_norm(np.array([[2**24 + 1]]))": ("ValueError", "integers beyond 2^24"),
    "gj.matrix_norm(np.eye(2, dtype=np.longdouble) / 3)": ("ValueError", "that float64 rounds"),
    "gj.conv_norm(np.ones((3, 3, 1, 1)), image_size=(5, 5), strides=1, padding=1.5)":
        ("ValueError", "padding is 'SAME'"),
    "gj.conv_norm(np.ones((3, 3, 1, 1)), image_size=(5, 5), strides=1, padding=((0.5, 1), (1, 1)))":
        ("ValueError", "padding is 'SAME'"),
    "gj.conv_norm(np.ones((3, 3, 1, 1)), image_size=(5, 5), strides=1.5, padding=1)":
        ("ValueError", "strides is a positive integer"),
    "gj.conv_norm(np.ones((3, 3, 1, 1)), image_size=(5, 5), strides=1, padding=1, groups=1.0)":
        ("ValueError", "groups is a positive integer"),
    "gj.UpperBound(-5.0)": ("ValueError", "at least 0, got -5.0"),
    "gj.UpperBound(1j)": ("TypeError", "one real number, got complex"),
    "gj.certified_radius(gj.GloroLogits(x[0, 0], gj.UpperBound(1.0), jnp.zeros((3, 3))))":
        ("ValueError", "head distances (2, 2), got (3, 3)"),
    "gj.matrix_norm(np.ones(3))": ("ValueError", "matrix must have 2 axes"),
    "Split(images + 2, labels)": ("ValueError", "lie in [0, 1], got values from 2.0"),
    "Split(images * np.nan, labels)": ("ValueError", "4 of 4 hold NaN or infinite pixels"),
    "Split(images.astype(float), labels)": ("TypeError", "got float64"),
    "Split(images[..., 0], labels)": ("ValueError", "Images have shape (n, H, W, C)"),
    "Split(images, labels[:2])": ("ValueError", "one label per image"),
    "Split(images, labels.astype(float))": ("TypeError", "array of integers"),
    "Split(images, labels - 1)": ("ValueError", "label -1 of example 0"),
    "check_labels(labels.astype('timedelta64[s]'), count=4)": ("TypeError", "timedelta64"),
    "gj.certificates.write(frozen, images, labels, epsilon=0.1, out='new', source={'run': 1.0})":
        ("TypeError", "source is a dict of texts"),
    "damaged('class_names', 3)": ("ValueError", "data.class_names is a list of texts, got 3"),
    "check_labels(labels, count=4, num_classes=2)": ("ValueError", "from 0 to 1; label 2"),
    "gj.data.from_arrays((images, labels), (images, labels), validation=1.5)":
        ("ValueError", "validation is a share"),
    "gj.evaluation.verified_robust_accuracy(frozen, [(images, labels + 1)], epsilon=0.1)":
        ("ValueError", "from 0 to 2; label 3"),
    "gj.evaluation.verified_robust_accuracy(frozen, [(images - 1, labels)], epsilon=0.1)":
        ("ValueError", "lie in [0, 1]"),
    "gj.evaluation.verified_robust_accuracy(frozen, [], epsilon=0.1)":
        ("ValueError", "nothing to certify"),
    "gj.evaluation.attack(frozen, images, radii=-1.0)": ("ValueError", "at least 0"),
    "gj.training.fit(net, (images, labels), gj.training.TrainConfig(0.1, 1), run='x')":
        ("TypeError", "gj.data.from_arrays"),
    "gj.training.fit(net, gj.data.digits(), {'epsilon': 0.1}, run='x')":
        ("TypeError", "gj.training.TrainConfig(epsilon=0.5, epochs=20)"),
    "gj.training.fit('2C2F', gj.data.digits(), gj.training.TrainConfig(0.1, 1), run='x')":
        ("TypeError", "fit trains a gj.GloroNet or a model config, got str"),
    "gj.load('nowhere')": ("FileNotFoundError", "is no run folder"),
    "gj.load('nowhere', checkpoint='bets')": ("ValueError", "'best' or 'last'"),
    "gj.freeze(net, {'params': {**variables['params'], 'more': x}}, input_shape=(6, 6, 2))":
        ("ValueError", "of another network. more: (2, 6, 6, 2), wanted none"),
    "gj.freeze(net, {'params': {'head_bias': labels}}, input_shape=(6, 6, 2))":
        ("ValueError", "head_kernel: none, wanted"),
    "gj.certify(frozen, x, epsilon='36/0')": ("ValueError", "such as 36 / 255; got '36/0'"),
    "gj.models.from_plain_model({'family': 'LiResNet', 'depth': 1, 'width': 4, 'stem': '3x3'})":
        ("ValueError", "model.stem must be one of ['auto', '5x5', '7x7', 'patches'], got '3x3'"),
    "gj.torch_import.import_torch('a.npz', out='b', data='none.npz')":
        ("FileNotFoundError", "none.npz, the data to certify on, is not there"),
    "gj.torch_import.from_state_dict('model.npz')":
        ("TypeError", "dictionary of arrays (read_state_dict)"),
    "gj.torch_import.from_state_dict({'head.bias': [0.0]})":
        ("TypeError", "dictionary of arrays (read_state_dict)"),
    "gj.models.from_plain_model({'family': ['ChordLiResNet']})":
        ("ValueError", "model.family is one of"),
    "gj.GloroNet(layers.OrthogonalPatches(4, patch=0), 3).init(jax.random.key(0), x, norms=norms)":
        ("ValueError", "patch"),
    "gj.GloroNet(nn.Sequential([layers.Flatten(), nn.WeightNorm(layers.Dense(4))]), 3)"
        ".init(jax.random.key(0), x, norms=norms)": ("TypeError", "Use the layer itself"),
    "gj.GloroNet(nn.Sequential([layers.Flatten(), nn.SpectralNorm(layers.Dense(4))]), 3)"
        ".init(jax.random.key(0), x, norms=norms)": ("TypeError", "Use the layer itself"),
    "gj.evaluation.verified_robust_accuracy(frozen, None, epsilon=0.1)":
        ("ValueError", "for one pair: [(images, labels)]"),
    "gj.export.write(frozen, out='nowhere', epsilon=0.1, about=[1])": ("TypeError", "dictionary"),
    "layers.Dense(2.0)": ("TypeError", "features of Dense is a whole number, got 2.0"),
    "layers.Dense(0)": ("ValueError", "features of Dense is at least 1, got 0"),
    "layers.Conv(2, 3, groups=0)": ("ValueError", "groups of Conv is at least 1"),
    "layers.Scale(initial='1')": ("TypeError", "initial of Scale is a number"),
    "layers.MinMax(pairing='x')": ("ValueError", "['halves', 'adjacent']"),
    "layers.Dense(2, use_bias='no')": ("TypeError", "True or False"),
    "layers.Normalize(0.5, 0.5)": ("TypeError", "(0.5,) for one channel"),
    "gj.GloroNet(layers.Flatten(), 2, views=5)": ("TypeError", "sequence of text"),
    "gj.GloroNet(layers.Flatten(), 2, is_head_normalized='no')": ("TypeError", "True or False"),
    "net.init(jax.random.key(0), np.float32(1), norms=norms)": ("ValueError", "a batch of inputs"),
    "gj.init_spectral(net, None, key=jax.random.key(0), input_shape=(6, 6, 2))":
        ("TypeError", "dictionary of collections"),
    "gj.certified_radius(gj.GloroLogits(jnp.float32(1), gj.UpperBound(1.0), jnp.ones((2, 2))))":
        ("ValueError", "at least 2 classes"),
    "gj.guarantees.parse(None)": ("TypeError", "'top-5'"),
    "layers.BroDense(rank=1.5)": ("TypeError", "rank of BroDense is a whole number"),
    "layers.BroConv(rank='2')": ("TypeError", "rank of BroConv is a whole number"),
    "layers.CplDense(hidden=True)": ("TypeError", "hidden of CplDense is a whole number"),
    "layers.Dense(2, kernel_init=None)": ("TypeError", "kernel_init of Dense is an initialiser"),
    "layers.Normalize('abc', 'def')": ("TypeError", "(0.5,) for one channel"),
    "layers.Normalize((10**400,), (1.0,))": ("TypeError", "(0.5,) for one channel"),
    "gj.verifiers.Crown().verify(frozen, images, np.ma.array(labels, mask=labels > 1), radius=0.1)":
        ("TypeError", "labels is a masked array"),
    "gj.verifiers.Crown().verify(frozen, images, labels, radius=np.True_)":
        ("ValueError", "radius is a number"),
    "gj.verifiers.Crown().verify(frozen, images, labels, norm=np.array(['l2']), radius=0.1)":
        ("ValueError", "knows the norms"),
    "gj.certfy": ("AttributeError", "no attribute 'certfy'"),
}  # fmt: skip

RUNNER = """
out = {}
for case in json.loads(sys.stdin.read()):
    try:
        eval(case)
        out[case] = ["nothing", ""]
    except Exception as error:
        out[case] = [type(error).__name__, str(error)]
print(json.dumps(out))
"""


@pytest.fixture(scope="module")
def raised():
    run = subprocess.run(
        [sys.executable, "-c", PRELUDE + RUNNER],
        input=json.dumps(list(CASES)), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


@pytest.mark.parametrize("case", CASES)
def test_it_raises_early_and_says_what_to_do(raised, case):
    kind, message = raised[case]
    assert (kind, CASES[case][1] in message) == (CASES[case][0], True), message
