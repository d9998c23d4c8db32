"The old name of `ganomaly_nb.xray.projection`."
from .xray.projection import *
from .xray.projection import __all__
