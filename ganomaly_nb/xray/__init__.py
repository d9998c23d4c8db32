"Windows of X-ray scans, their labels and their annotations: the names of `scans` and `readers`."
from . import readers, scans
from .readers import *
from .scans import *
__all__ = [*scans.__all__, *readers.__all__]
