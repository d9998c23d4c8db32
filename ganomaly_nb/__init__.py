__version__ = "0.1.0"

import warnings
# fastai 2.8 decorates two activations with `torch.jit.script`, which torch 2.10 and later deprecate
warnings.filterwarnings('ignore', message='`torch.jit.script` is deprecated', category=FutureWarning)
