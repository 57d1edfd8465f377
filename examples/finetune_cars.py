"""Fine-tunes on Stanford Cars.

The data set's official address is dead, so `tfds:cars196` cannot download it. Get a copy, sort it
into train/CLASS/*.jpg and val/CLASS/*.jpg, and name the folder:

    python examples/finetune_cars.py --data folder:cars --workdir runs/cars
"""

from finetune_folder import main, parse

if __name__ == "__main__":
    main(parse("folder:cars"))
