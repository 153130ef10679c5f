"""Kill the training of digits.py five times, rerun it each time, and compare its end with an undisturbed run's."""

import subprocess
import sys

DRILL = ["resumable", "drill", "--kills", "5", "--seed", "0", "--", sys.executable, "examples/digits.py"]

if __name__ == "__main__":
    sys.exit(subprocess.run([sys.executable, "-m", *DRILL]).returncode)
