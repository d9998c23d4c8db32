"Started by test_experiments.py as several processes: one model, trained on the CPU by all of them."
import sys, tempfile
import torch
import ganomaly_nb # silences a deprecation warning of fastai's own
from fastai.basics import rank_distrib, set_seed
from fastai.distributed import DistributedDL, setup_distrib
from ganomaly_nb.data import AnomalyDataLoaders
from ganomaly_nb.learner import ganomaly_learner

def _broadcast(self, t, rank):
    "fastai's own asks for a GPU"
    t = torch.tensor(t)
    torch.distributed.broadcast(t, rank)
    return t.tolist()
DistributedDL._broadcast = _broadcast

torch.distributed.init_process_group('gloo')
rank = rank_distrib()
set_seed(rank) # other weights in each process, until they are shared
dls = AnomalyDataLoaders.from_digits(abnormal=0, bs=32, n_train=320, device='cpu')
learn = ganomaly_learner(dls, nz=8, nf=8, lr=1e-3, path=tempfile.mkdtemp())
learn.ganomaly.d_min = float(sys.argv[2])
with learn.no_bar(), learn.no_logging(), learn.distrib_ctx(sync_bn=False, cpu=True): learn.fit(3)
with learn.no_bar(): scores,_ = learn.get_preds(dl=dls.test)
weights = torch.cat([p.detach().flatten() for p in learn.model.parameters()])
torch.save(dict(weights=weights, scores=scores, terms=learn.recorder.loss_terms, resets=learn.ganomaly.n_resets), f'{sys.argv[1]}/{rank}.pt')
torch.distributed.destroy_process_group()
