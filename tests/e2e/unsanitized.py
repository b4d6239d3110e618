"""For tests of memory and open files: a sanitizer's own don't fit in such limits."""

import re
from pathlib import Path

import pytest
from fulgur_cli import BINARY

unsanitized = pytest.mark.skipif(re.search(rb"__[at]san_init", Path(BINARY).read_bytes()) is not None, reason="sanitizers need more")
