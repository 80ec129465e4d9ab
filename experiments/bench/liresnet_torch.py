"""A training step of the LiResNet authors' PyTorch code, asked for by step_vs_reference.py.

Needs torch and a checkout of github.com/hukkai/liresnet, whose modules are put together here in
the sizes asked for. One step is what its train.py does: the Lipschitz constant, the EMMA loss,
backward, clipping to norm 3, NAdam.

    python experiments/bench/liresnet_torch.py CHECKOUT [--channels-last] [--batch 64] ...
"""

import argparse
import sys
import time
from typing import Any


def build(models: Any, options: argparse.Namespace) -> Any:
    """Their network with another number of dense features and layers."""
    from models.blocks import LiResMLP
    from models.layers import build_activation
    from models.model import Map2Vec, head

    net = models.GloroNet(depth=options.depth, width=options.width, input_size=32, num_classes=10)
    act, features = build_activation("MinMax", dim=1), options.dense_features
    net.neck = Map2Vec(feat_dim=options.width, feat_size=16, out_dim=features, activation=act)
    net.linear = LiResMLP(num_features=features, depth=options.dense_depth, activation=act)
    net.head = head(features, 10, True)
    net.num_lc_iter = options.power_steps
    net.set_num_lc_iter()
    net.train(True)
    return net


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkout")
    parser.add_argument("--depth", type=int, default=6)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--dense-features", type=int, default=128)
    parser.add_argument("--dense-depth", type=int, default=8)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--power-steps", type=int, default=10)
    parser.add_argument("--channels-last", action="store_true")
    options = parser.parse_args()
    sys.path.insert(0, options.checkout)
    import models
    import torch

    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    net = build(models, options).to(device)
    x = torch.rand(options.batch, 3, 32, 32, device=device)
    if options.channels_last:  # kernels are computed anew in each step and follow the images
        x = x.to(memory_format=torch.channels_last)
    y = torch.randint(0, 10, (options.batch,), device=device)
    optimizer = torch.optim.NAdam(net.parameters(), lr=1e-3)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        _, _, loss = models.emma_loss(net, x, y, eps=0.2, lc=net.sub_lipschitz())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 3)
        optimizer.step()
        loss.item()

    print("ready", flush=True)
    for line in sys.stdin:
        start = time.perf_counter()
        for _ in range(int(line)):
            step()
        print(time.perf_counter() - start, flush=True)


if __name__ == "__main__":
    main()
