"""Few-shot classification of your own images: a folder, or a zip, with a folder for each class.

    python -m experiments.main --config=configs/folder.py[:5way-1shot][,recipe=finn] \
        --config.data.dir=PATH

Classes may differ in size; --config.data.size, .channels and .fit say how pictures become arrays;
--config.data.split_file or .classes says which classes are for training, validation and test.
"""

from experiments import image_config


def get_config(text=None):
    return image_config("folder", text)
