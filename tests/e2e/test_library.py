"""A program outside the tree finds an installed Fulgur and says what the command says."""

import shutil
import subprocess

from fulgur_cli import BINARY, ROOT, output

PROMPTS = ["In the beginning God created", "And the king said"]


def sanitize_flags(build):
    """Of a build under a sanitizer: what links its libraries needs them too."""
    for line in (build / "CMakeCache.txt").read_text().splitlines():
        if line.startswith("FULGUR_SANITIZE:") and line.partition("=")[2]:
            return [f"-DCMAKE_CXX_FLAGS=-fsanitize={line.partition('=')[2]}"]
    return []


def test_the_example_program_builds_against_the_installed_library_and_runs(tmp_path):
    build = BINARY.parent.parent
    prefix, source, out = tmp_path / "prefix", tmp_path / "batch", tmp_path / "build"

    def run(*command):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run("cmake", "--install", build, "--prefix", prefix, "--component", "Development")
    shutil.copytree(ROOT / "examples/batch", source)
    run("cmake", "-S", source, "-B", out, "-G", "Ninja", f"-DCMAKE_PREFIX_PATH={prefix}", *sanitize_flags(build))
    run("cmake", "--build", out)
    said = run(out / "batch", ROOT / "models/mini-v32", *PROMPTS)
    expected = "".join(output("generate", prompt, max_tokens=16) for prompt in PROMPTS)
    assert said == expected
