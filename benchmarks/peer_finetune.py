"""`kev.finetune` beside timm's network with our weights, trained by one cycle as fastai does.

    python benchmarks/peer_finetune.py --data folder:flowers --weights b0.weights.h5 --epochs 4

Both see the same pictures through our pipeline. The peer trains a new head alone for an epoch, then
everything by one cycle of AdamW with rates that grow from the first layers to the last by a hundred
(fastai's `fine_tune` and its defaults), for as many epochs as fit into the minutes that ours took.
"""

import argparse
import math
import statistics
import tempfile
import time

import timm  # before TensorFlow, which crashes otherwise
import torch
from peers import LEAVES, our_layer

import keras_effv2 as kev
from keras_effv2.variants import find

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--data", required=True)
parser.add_argument("--weights", required=True)
parser.add_argument("--image_size", type=int, default=160)
parser.add_argument("--epochs", type=int, default=4, help="of ours")
parser.add_argument("--seeds", default="0,1,2")
parser.add_argument("--norm", default="frozen", choices=["trained", "lagging", "frozen"])
RATE, SPREAD, WARM, BATCH = 2e-3, 100, 0.3, 32  # fastai's defaults; its batch is 64


def network(weights, classes):
    """timm's EfficientNetV2-B0 with our weights and a new head."""
    theirs = timm.create_model("tf_efficientnetv2_b0", num_classes=classes, drop_rate=0.2)
    ours = kev.EfficientNetV2B0(weights=weights, include_top=False)
    state = theirs.state_dict()
    for key in list(state):
        layer, _, leaf = key.rpartition(".")
        if layer == "classifier" or leaf == "num_batches_tracked":
            continue
        layer = our_layer(layer, find("EfficientNetV2B0"))
        array = ours.get_layer(layer).get_weights()[LEAVES.index(leaf)]
        if array.ndim == 4:
            array = array.transpose((2, 3, 0, 1) if "dwconv" in layer else (3, 2, 0, 1))
        state[key] = torch.from_numpy(array)
    theirs.load_state_dict(state)
    return theirs


def pixels(images):
    """As ImageNet's weights want them: `(b, 3, h, w)`, normalised."""
    images = torch.from_numpy(images.numpy()).permute(0, 3, 1, 2).float() / 255
    mean, deviation = (
        torch.tensor(row).view(1, 3, 1, 1) for row in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )
    return ((images - mean) / deviation).contiguous(memory_format=torch.channels_last)


def cycle(step, steps):
    """Part of the highest rate: a cosine up from a 25th, then one down to nearly nothing."""
    warm = max(1, int(WARM * steps))
    if step < warm:
        return 1 / 25 + (1 - 1 / 25) * (1 - math.cos(math.pi * step / warm)) / 2
    return (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm))) / 2 + 1e-5


def normalise(net, how):
    """Batch normalisation with ImageNet's statistics (`frozen`), with the data's (`trained`), or with
    the data's at timm's own momentum of 0.01, which lags in so short a training (`lagging`)."""
    for layer in net.modules():
        if isinstance(layer, torch.nn.modules.batchnorm._BatchNorm):
            layer.momentum = 0.01 if how == "lagging" else 0.1
            layer.train(how != "frozen")


def train(net, data, args, seed, epochs, groups, first):
    """Trains groups of parameters, each at its rate, by one cycle."""
    optimizer = torch.optim.AdamW(
        [{"params": own, "lr": rate} for own, rate in groups], weight_decay=0.01
    )
    rates = [rate for _, rate in groups]
    steps = epochs * data.train.steps(BATCH)
    step = 0
    for epoch in range(first, first + epochs):
        net.train()
        normalise(net, args.norm)
        batches = data.train.train_batches(
            image_size=args.image_size, batch_size=BATCH, seed=seed, epoch=epoch
        )
        for images, labels in batches:
            for group, rate in zip(optimizer.param_groups, rates):
                group["lr"] = rate * cycle(step, steps)
            loss = torch.nn.functional.cross_entropy(
                net(pixels(images)), torch.from_numpy(labels.numpy())
            )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            step += 1


def accuracy(net, split, size):
    """Top 1 on a split, every picture once."""
    net.eval()
    hits = total = 0
    with torch.inference_mode():
        for images, labels, mask in split.eval_batches(image_size=size, batch_size=50):
            said = net(pixels(images)).argmax(1).numpy()
            own = mask.numpy() > 0
            hits += int((said == labels.numpy().argmax(1))[own].sum())
            total += int(own.sum())
    return hits / total


def peer(args, data, seed, seconds):
    """Top 1 on the test split and the epochs that fitted into so many seconds."""
    torch.manual_seed(seed)
    net = network(args.weights, len(data.class_names)).to(memory_format=torch.channels_last)
    start = time.perf_counter()
    head = list(net.classifier.parameters())
    for parameter in net.parameters():
        parameter.requires_grad = False
    for parameter in head:
        parameter.requires_grad = True
    train(net, data, args, seed, 1, [(head, RATE)], 0)
    for parameter in net.parameters():
        parameter.requires_grad = True
    # a step of everything takes about twice one of the head alone
    epoch = 2 * (time.perf_counter() - start)
    epochs = max(1, round((seconds - (time.perf_counter() - start)) / epoch))
    rest = [p for name, p in net.named_parameters() if not name.startswith("classifier")]
    early, late = rest[: len(rest) // 2], rest[len(rest) // 2 :]
    groups = [(early, RATE / 2 / SPREAD), (late, RATE / 2 / SPREAD**0.5), (head, RATE / 2)]
    train(net, data, args, seed, epochs, groups, 1)
    took = time.perf_counter() - start
    return accuracy(net, data.test, args.image_size), epochs, took


def main(args):
    data = kev.data.load(args.data)
    found = {"ours": [], "one cycle": []}
    for seed in map(int, args.seeds.split(",")):
        with tempfile.TemporaryDirectory() as workdir:
            start = time.perf_counter()
            settings = {"epochs": args.epochs, "image_size": args.image_size, "seed": seed}
            _, judged = kev.finetune(
                "EfficientNetV2B0", data, workdir, weights=args.weights, hub=False, **settings
            )
            seconds = time.perf_counter() - start
        top1, epochs, took = peer(args, data, seed, seconds)
        found["ours"].append(judged.top1)
        found["one cycle"].append(top1)
        print(
            f"seed {seed}: ours {judged.top1:.1%} in {seconds:.0f} s; one cycle {top1:.1%} in "
            f"{took:.0f} s, 1 + {epochs} epochs",
            flush=True,
        )
    for name, values in found.items():
        print(f"{name}: median {statistics.median(values):.1%} of {len(values)} seeds")


if __name__ == "__main__":
    main(parser.parse_args())
