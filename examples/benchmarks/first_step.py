"""Measures the CPU-seconds to the end of the first training step: named layers, stacked units, keras.applications.

python examples/benchmarks/first_step.py

Each network has a process of its own, which builds it, compiles it and trains it on one batch of 8 images of 96x96.
What importing takes is left out. It prints a table, and what it was measured with.
"""

import argparse
import json
import subprocess
import sys
import time

NETWORKS = ("ResNet50", "ResNet152", "ResNet200")
KINDS = ("layers", "stacked", "keras.applications")
SIDE, BATCH = 96, 8


def work(name, kind):
    """Prints the CPU-seconds of one network, and where they were measured, as JSON."""
    import keras
    import numpy as np

    import keras_preact
    from keras_preact.training.provenance import provenance

    images = np.random.default_rng(0).normal(size=(BATCH, SIDE, SIDE, 3)).astype("float32")
    labels = np.arange(BATCH)
    begun = time.process_time()
    if kind == "keras.applications":
        function = getattr(keras.applications, f"{name}V2")
        model = function(weights=None, input_shape=(SIDE, SIDE, 3))
    else:
        model = keras_preact.get_model(name, input_shape=(SIDE, SIDE, 3), layout=kind)
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9), "sparse_categorical_crossentropy")
    model.fit(images, labels, batch_size=BATCH, verbose=0)
    print(json.dumps({"cpu_seconds": round(time.process_time() - begun, 1), **provenance()}))


def main():
    """Measures all networks, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--one", nargs=2, metavar=("NETWORK", "KIND"), help="measure one, in this process")
    if one := parser.parse_args().one:
        work(*one)
        return
    print(f"| | {' | '.join(KINDS)} |\n|---|{'---|' * len(KINDS)}")
    for name in NETWORKS:
        cells = []
        for kind in KINDS:
            if (name, kind) == ("ResNet200", "keras.applications"):  # has none
                cells.append("")
                continue
            command = [sys.executable, __file__, "--one", name, kind]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            found = json.loads(done.stdout.splitlines()[-1])
            cells.append(str(found["cpu_seconds"]))
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
    versions = ", ".join(f"{package} {version}" for package, version in found["versions"].items())
    print(f"\nCPU-s; {found['device']}; {versions}; commit {found['commit']}, {found['date']}")


if __name__ == "__main__":
    main()
