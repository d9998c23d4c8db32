"The old name of `ganomaly_nb.xray.simulator`."
from .xray.simulator import *
from .xray.simulator import __all__
