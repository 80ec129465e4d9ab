"""Strict JAX, four pretend devices, and the networks several tests share."""

import gc
import shutil
from pathlib import Path

import jax

from tests.compiling import AS_USERS

jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_numpy_rank_promotion", "raise")
# Most of the time goes into compiling, and most programs are those of the last run: they are kept
# beside the tests, by a digest of what they say and of how they were compiled.
TESTS = Path(__file__).parent
CACHE = str(TESTS.parent / ".jax_cache")
CHILD_CACHE = f"{CACHE}/children"  # of processes that tests start, and kill
jax.config.update("jax_compilation_cache_dir", CACHE)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)

import jaxtyping  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402

# Shapes are checked at every call where annotations name them. Elsewhere pyright has looked, and
# the hook would take a sixth of the time.
SHAPED = [
    ".".join(file.relative_to(TESTS.parent).with_suffix("").parts)
    for file in (TESTS.parent / "gloro_jax").rglob("*.py")
    if "from jaxtyping import" in file.read_text(encoding="utf-8")
]
jaxtyping.install_import_hook(SHAPED, "beartype.beartype")

import gloro_jax as gj  # noqa: E402
from gloro_jax import platforms  # noqa: E402
from gloro_jax.models import GloroCNN  # noqa: E402
from gloro_jax.program import settle  # noqa: E402
from tests import draws  # noqa: E402

# In these files and folders, the library's programs are compiled as they are for users.
AS_FOR_USERS = {
    "certificates", "test_augmented_steps", "test_certify", "test_executed", "test_export",
    "test_golden", "test_golden_liresnet", "test_hunt", "test_margins", "test_models",
    "test_tightness",
}  # fmt: skip
MORE = tuple(
    line
    for line in (TESTS / "more.txt").read_text(encoding="utf-8").splitlines()
    if line and not line.startswith("#")
)
# Files that take longest go first, so that no worker is left with one at the end.
LONG = ("test_resume", "test_cli", "test_fit", "test_published", "test_hunt", "test_certificates")


def pytest_configure(config):
    """Programs of long ago take room: from 1 GiB on, all are forgotten before the workers start."""
    if not hasattr(config, "workerinput"):
        sizes = (file.stat().st_size for file in Path(CACHE).rglob("*") if file.is_file())
        if sum(sizes) > 2**30:
            shutil.rmtree(CACHE, ignore_errors=True)


def pytest_collection_modifyitems(items):
    for item in items:
        if item.nodeid.startswith(MORE):
            item.add_marker(pytest.mark.more)
    items.sort(key=lambda item: LONG.index(item.path.stem) if item.path.stem in LONG else len(LONG))


def pytest_collection_finish():
    """What is there now stays; looking through it for garbage took a tenth of the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 50)


@pytest.fixture(scope="session", autouse=True)
def kernels_computed_by_single_equations():
    """Networks of tests are many and small: they share the programs of equations, not their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(settle, "_SHORT", 200)
        yield


@pytest.fixture(scope="module", autouse=True)
def compiled_as_for_users(request):
    parts = request.path.relative_to(TESTS).with_suffix("").parts
    more = {} if AS_FOR_USERS.isdisjoint(parts) else AS_USERS
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(platforms, "_CPU_OPTIONS", {**platforms._CPU_OPTIONS, **more})
        yield


@pytest.fixture
def untyped():
    """Without the hook that checks annotations in tests; it knows no symbolic batches."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="session")
def small_net():
    """A convolutional net on 8 x 8 images with weights away from their symmetric start."""
    net = GloroCNN(convs=((8, 3, 1), (8, 4, 2)), dense=(16,), num_classes=5).build()
    x = draws.uniform(1, (12, 8, 8, 1))
    init = jax.jit(lambda key: net.init(key, x, norms=gj.PowerIteration(steps=5)))
    variables = init(draws.key(0))
    noise = jax.tree.map(lambda p: p + 0.1 * draws.normal(p.size + 5, p.shape), variables["params"])
    return net, {**variables, "params": noise}, x


@pytest.fixture(scope="session")
def small_frozen(small_net):
    net, variables, _ = small_net
    return gj.freeze(net, variables, input_shape=(8, 8, 1))


@pytest.fixture(scope="session")
def tiny_data():
    return make_tiny_data()


def make_tiny_data():
    """Three classes of 6 x 6 images that a small net separates: which third is bright."""
    rng = np.random.default_rng(0)
    labels = np.arange(180) % 3
    images = rng.uniform(0, 0.3, (180, 6, 6, 1)).astype(np.float32)
    for image, label in zip(images, labels, strict=True):
        image[2 * label : 2 * label + 2] += 0.6
    return gj.data.from_arrays(
        (images[:150], labels[:150]), (images[150:], labels[150:]), validation=0.2, name="tiny"
    )
