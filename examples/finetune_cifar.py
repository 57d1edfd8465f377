"""Fine-tunes on CIFAR-10, or with --data tfds:cifar100 on CIFAR-100.

    python examples/finetune_cifar.py --workdir runs/cifar10

Prepare the data once: python -c "import tensorflow_datasets as t; t.load('cifar10')". The pictures of
32 pixels are scaled up: fed as they are, they leave a network of stride 32 a single cell to see
them with.
"""

from finetune_folder import main, parse

if __name__ == "__main__":
    main(parse("tfds:cifar10"))
