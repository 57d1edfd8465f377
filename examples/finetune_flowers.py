"""Fine-tunes on Oxford Flowers-102, or with --data tfds:tf_flowers on five kinds of flowers.

    python examples/finetune_flowers.py --workdir runs/flowers

Prepare the data once: python -c "import tensorflow_datasets as t; t.load('oxford_flowers102')".
"""

from finetune_folder import main, parse

if __name__ == "__main__":
    main(parse("tfds:oxford_flowers102"))
