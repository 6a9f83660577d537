import subprocess
import sys


def test_stream_starts_without_lightning():
    script = "import sys; import training.loop; print({'lightning', 'torchmetrics', 'torchvision'} & set(sys.modules))"
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ended.stdout.splitlines()[-1] == "set()"
