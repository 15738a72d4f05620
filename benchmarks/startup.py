"""How long a user waits before anything happens: importing tuition beyond torch, and the command line's help.

    python benchmarks/startup.py [--repeats 5]

Processor seconds of new processes, the least of several; and what is promised.
"""

import argparse
import subprocess
import sys

PUBLIC = "from tuition import losses, data, models, teachers, ResponseStore, distill, load"
HELP = (
    "import sys; sys.argv = ['tuition', *{}]; from tuition.cli.main import main; "
    "sys.stdout = open('/dev/null', 'w'); main()"
)
MEASURED = {
    "the public names, after torch": ("import torch", PUBLIC, 0.3),
    "tuition --help": ("", HELP.format(["--help"]), 0.6),
    "tuition --version": ("", HELP.format(["--version"]), 0.6),
    "tuition distill --help": ("", HELP.format(["distill", "--help"]), 0.6),
}


def seconds(before: str, program: str) -> float:
    timed = f"import sys, time; {before}\nbegun = time.process_time()\n{program}\n"
    timed += "print(time.process_time() - begun, file=sys.__stdout__)"
    done = subprocess.run([sys.executable, "-c", timed], capture_output=True, text=True, check=True)
    return float(done.stdout)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    print("| what | processor seconds | promised |\n|---|---|---|")
    late = 0
    for what, (before, program, limit) in MEASURED.items():
        least = min(seconds(before, program) for _ in range(given.repeats))
        late += least > limit
        print(f"| {what} | {least:.2f} | {limit} |")
    return int(late > 0)


if __name__ == "__main__":
    sys.exit(main())
