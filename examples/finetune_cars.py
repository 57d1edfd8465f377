"""Fine-tunes on Stanford Cars.

The data set's official address is dead, so `tfds:cars196` cannot download it. Put copies of its two
files, car_ims.tgz and cars_annos.mat, into a folder:

    python examples/finetune_cars.py --data cars:stanford --workdir runs/cars
"""

from finetune_folder import main, parse

if __name__ == "__main__":
    main(parse("cars:stanford"))
