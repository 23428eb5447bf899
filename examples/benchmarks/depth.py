"""Measures what depth costs: ResNets of 11 to 1001 layers in this package, in plain Keras layers, and in eager torch.

    python examples/benchmarks/depth.py                         # everything on the CPU: over an hour on two cores
    python examples/benchmarks/depth.py --quick                 # a smoke test of some minutes, depths 29 and 56
    python examples/benchmarks/depth.py --what train --depths 164
    python examples/benchmarks/depth.py --gpu --what --keep     # the GPU section alone, added to what FOLDER holds

The network is the CIFAR pre-activation bottleneck ResNet, float32, batch 16, SGD with momentum. The contestants:

    plain       one stock Keras layer per operation (`plain.py`), compiled with jit_compile=False on TensorFlow
    stacked     `ResNet(depth, family="cifar", unit="bottleneck")`; also with remat=True; on a GPU at each unroll
    torch       eager PyTorch, channels_last (`torch_eager.py`), if torch is installed

`--what` chooses among

    train       TensorFlow and torch: seconds from the process's start to the end of the first training step, and its
                parts; steady steps in wall and CPU-seconds; the process's peak memory
    files       save_weights, load_weights, `model.export`, the size of saved_model.pb, `tf.saved_model.load`
    predict     CPU-seconds of a `tf.function` of the model; ours also as `keras_preact.network.frozen.frozen_function`
    jax         `train` on JAX
    curve       one round of `train` and `files` at those of the depths 11, 56, 164, 326, 1001 not in `--depths`

and `--gpu` adds training on one GPU (JAX, mixed_bfloat16, batch 128) at each `unroll`, with and without `remat`.

Every measurement has a process of its own, on `--cores` cores; the contestants take turns, A B A B, so that a machine
that drifts does so for all. A ratio is the median over the rounds of one round's ratio. FOLDER gets `measurements.csv`
(every raw number), `report.txt` (the ratios beside the bars the project sets itself), `environment.json` and
`depth.png`.

Other programs disturb the numbers, those of torch most (tenfold and more): its threads spin while they wait. So each
measurement says how many processors they kept busy meanwhile; the report leaves out the rounds in which that was more
than BUSY, if others are left, and marks the line if not.
"""

import argparse
import importlib.util
import itertools
import json
import pathlib

import depth_report
from depth_report import CURVE_DEPTHS, OURS
from worker import run_worker

TRAIN = ("train", "tensorflow", ("plain", "stacked", "stacked remat")), ("train", "torch", ("torch",))
FILES = (("files", "tensorflow", ("plain", "stacked")),)
SECTIONS = {  # section: rows of (kind of measurement, backend, contestants)
    "train": TRAIN,
    "files": FILES,
    "predict": (("predict", "tensorflow", ("plain", "stacked")),),
    "jax": (("train", "jax", ("plain", "stacked", "stacked remat")),),
    "curve": TRAIN + FILES,
    "gpu": (("gpu", "jax gpu", tuple(OURS)),),
}
PLAIN_ON_JAX = 326  # the deepest: plain ResNet-1001 has not compiled there after 400 s, at 22 GB of memory


def main():
    arguments = parse_arguments()
    folder = pathlib.Path(arguments.output)
    folder.mkdir(parents=True, exist_ok=True)
    rows = depth_report.read_rows(folder / "measurements.csv") if arguments.keep else []
    tasks = list_tasks(arguments, first_round=1 + max((row["round"] for row in rows), default=0))
    (folder / "environment.json").write_text(
        json.dumps(depth_report.environment(arguments), indent=2) + "\n", encoding="utf-8"
    )
    for number, task in enumerate(tasks, start=1):
        measured = run_worker(task, arguments.time_limit)
        rows += depth_report.to_rows(task, measured)
        depth_report.write_rows(folder / "measurements.csv", rows)
        print(f"[{number}/{len(tasks)}] {depth_report.describe(task, measured)}", flush=True)
    report = "\n".join(depth_report.report_lines(rows, arguments.depths))
    (folder / "report.txt").write_text(report + "\n", encoding="utf-8")
    print(report)
    depth_report.draw(rows, folder / "depth.png")


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--depths", type=int, nargs="+", help="9n + 2 each (164 and 1001; 29 and 56 if --quick)")
    parser.add_argument("--what", nargs="*", choices=[name for name in SECTIONS if name != "gpu"], help="(all)")
    parser.add_argument("--contestants", nargs="+", metavar="NAME", choices=("plain", *OURS, "torch"), help="(all)")
    parser.add_argument("--rounds", type=int, help="turns of each contestant (3; 1 if --quick)")
    parser.add_argument("--steps", type=int, help="steady steps per turn (12; 3 if --quick)")
    parser.add_argument("--quick", action="store_true", help="small depths, few steps, no `curve`")
    parser.add_argument("--gpu", action="store_true", help="measure on a GPU as well")
    parser.add_argument("--cores", type=int, default=2, help="of the processor, for each CPU measurement")
    parser.add_argument("--time-limit", type=float, default=900.0, help="seconds for one measurement")
    parser.add_argument("--output", default="runs/depth", metavar="FOLDER")
    parser.add_argument("--keep", action="store_true", help="keep what FOLDER holds, and report on all of it")
    arguments = parser.parse_args()
    quick = arguments.quick
    arguments.depths = arguments.depths or ([29, 56] if quick else [164, 1001])
    if arguments.what is None:
        arguments.what = [name for name in SECTIONS if name != "gpu" and not (quick and name == "curve")]
    arguments.what += ["gpu"] if arguments.gpu else []
    arguments.rounds = arguments.rounds or (1 if quick else 3)
    arguments.steps = arguments.steps or (3 if quick else 12)
    arguments.warm_ups = 1 if quick else 3
    for depth in arguments.depths:
        if depth < 11 or depth % 9 != 2:
            parser.error(f"--depths must be 9n + 2 each. Received: {depth}.")
    return arguments


def list_tasks(arguments, first_round):
    """Returns the measurements to make, in order, as dicts that JSON can hold."""
    tasks = []
    for section in arguments.what:
        is_curve, depths = section == "curve", arguments.depths
        if is_curve:
            depths = [depth for depth in CURVE_DEPTHS if depth not in depths]
        if section == "jax" and arguments.quick:
            depths = depths[:1]
        for turn, depth in itertools.product(range(1 if is_curve else arguments.rounds), depths):
            for kind, backend, contestants in SECTIONS[section]:
                for contestant in contestants:
                    is_asked = arguments.contestants is None or contestant in arguments.contestants
                    if is_asked and is_possible(backend, contestant, depth):
                        what = dict(kind=kind, backend=backend, contestant=contestant, depth=depth)
                        how = dict(steps=arguments.steps, warm_ups=arguments.warm_ups, cores=arguments.cores)
                        tasks.append({**what, "round": first_round + turn, **how})
    return tasks


def is_possible(backend, contestant, depth):
    """Returns False for torch where it is not installed, and for plain networks that JAX does not get done."""
    if backend == "torch":
        return importlib.util.find_spec("torch") is not None
    return not (backend == "jax" and contestant == "plain" and depth > PLAIN_ON_JAX)


if __name__ == "__main__":
    main()
