"""Trains in several processes as one job: `tf.distribute.MultiWorkerMirroredStrategy`.

python examples/strategies/multi_worker.py

On one machine, as here, `launch` starts the workers, watches them, and starts them again from the last checkpoint if
one dies. Under a cluster manager each machine runs `keras-preact train ... --output SHARED_FOLDER` with TF_CONFIG set:

    TF_CONFIG='{"cluster": {"worker": ["host0:2222", "host1:2222"]}, "task": {"type": "worker", "index": 0}}'

On the command line: keras-preact launch --workers 2 -- train ResNet11 --epochs 2
"""

import sys

from keras_preact.training.launcher import launch

command = "from keras_preact.cli import main; main()"
arguments = ["train", "ResNet11", "--epochs", "2", "--output", "runs/multi_worker"]
sys.exit(launch([sys.executable, "-c", command, *arguments], workers=2))
