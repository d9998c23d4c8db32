"The old name of `ganomaly_nb.xray.projection`."

# Written by hand, like `ganomaly_nb/__init__.py`: there is nothing in it that a notebook could explain or test; `tests/test_xray.py` does
from .xray.projection import *
from .xray.projection import __all__
