"""`python -m keras_preact` is `keras-preact`."""

from keras_preact.cli import main

main()
