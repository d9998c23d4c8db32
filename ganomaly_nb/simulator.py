"The old name of `ganomaly_nb.xray.simulator`."

# Written by hand, like `ganomaly_nb/__init__.py`: there is nothing in it that a notebook could explain or test; `tests/test_xray.py` does
from .xray.simulator import *
from .xray.simulator import __all__
