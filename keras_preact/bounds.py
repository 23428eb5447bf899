"""What files from elsewhere, and people, may claim, in one place; more is refused before anything is allocated for it.

A file of some bytes may stand for about as many bytes in memory. Networks, images and cards have bounds of their own,
far beyond what the paper and its data sets need.
"""

UNITS = 10_000  # Residual Units of a network; the paper's deepest, ResNet-1001, has 333
SEED = (1 << 32) - 1  # what numpy and TensorFlow take
SIDE = 4096  # pixels along a side of an image that a network sees, and of the resized image it is cut from
CARD_BYTES = 1 << 24  # of a card.json; ImageNet's 1000 class names take 22 kB
CONFIG_BYTES = 1 << 26  # of the config.json in a .keras file
UNPACKED = 4  # bytes of arrays, or of members of a zip archive, per byte of the file that holds them
UNPACKED_FREE = 1 << 24  # bytes that any zip archive may unpack to, however small it is
LORA_RANK = 4096  # of a layer; those that people choose are below 100
HDF5_DEEPEST = 32  # groups within groups
NAME_BYTES = 100  # of a part of a file's name that is taken from a card, a data set or a class
SLOWEST = 600_000  # bytes a minute that a download must bring on the whole
