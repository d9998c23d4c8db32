"Windows of X-ray scans, their labels and their annotations: the names of `scans` and `readers`."

# Written by hand, like `ganomaly_nb/__init__.py`: it only collects names; `tests/test_xray.py` checks which
from . import readers, scans
from .readers import *
from .scans import *
__all__ = [*scans.__all__, *readers.__all__]
