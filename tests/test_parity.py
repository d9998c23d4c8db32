"The package, trained by a fastai `Learner`, against runs of other code: losses of each step, weights, reconstructions, scores."
import os, tempfile
from copy import deepcopy
from functools import partial
from pathlib import Path
import numpy as np, pytest, torch
from fastai.basics import DataLoaders, Learner
from fastai.data.load import DataLoader
from safetensors import safe_open
from ganomaly_nb.losses import GANomalyLoss
from ganomaly_nb.networks import GANomaly
from ganomaly_nb.scoring import ScoreCallback, anomaly_score, code_score
from ganomaly_nb.training import GANomalyCallback, ganomaly_opt, ganomaly_splitter
from textbook import golden, golden_extra

eps = 1e-6  # of losses, and of weights where a run is not more sensitive than that
folder = Path(os.environ.get('GANOMALY_DATA', '/nowhere'))/'parity'
terms = ['adv','con','enc','d_real','d_fake']
devices = ['cpu'] + ['cuda']*torch.cuda.is_available()


class Steps(list):
    "Ready batches, as a data set that a fastai `DataLoader` hands out one by one"
    def loaders(self, device): return DataLoaders(DataLoader(self, bs=None), DataLoader(self[:0], bs=None), path=tempfile.mkdtemp(), device=device)


def train(model, x, lr, device='cpu', **weights):
    "One pass over the batches `x`, by fastai's loop"
    model.to(device).train()
    dls = Steps((b, torch.zeros(len(b))) for b in x).loaders(device)
    learn = Learner(dls, model, GANomalyLoss(**weights), opt_func=ganomaly_opt, splitter=ganomaly_splitter, lr=lr, cbs=[GANomalyCallback(), ScoreCallback(partial(code_score, score='mse'))])
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
    return learn


@pytest.fixture(params=(2,1), ids=lambda n: f'{n} threads')
def threads(request):
    "The golden runs were made with two threads; one adds up in another order"
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def rounded(x):
    "`x` with every number moved to its neighbour: one rounding more"
    return torch.nextafter(x, torch.full_like(x, torch.inf))


def reach(model, x, lr, **weights):
    """How far a single rounding of the input moves a weight of this run.

    Another machine, number of threads or kernel adds up in another order, which is a rounding here and there. Adam divides a gradient by its own
    size, so where a gradient is near zero a rounding can turn a step of +lr into one of -lr: no fixed tolerance is right for all weights. So we
    measure: two runs whose inputs differ by one rounding each. What other rounding does is of that size; four times it is allowed."""
    a,b = [train(deepcopy(model), o, lr, **weights).model for o in (x, rounded(x))]
    return max((p-q).abs().max().item() for p,q in zip(a.parameters(), b.parameters()))


def losses(learn): return np.array([learn.ganomaly.loss_terms[k] for k in terms]).T
def near(a, b, eps): return np.testing.assert_allclose(np.asarray(torch.as_tensor(a).detach().cpu()), np.asarray(b), rtol=0, atol=eps)


@pytest.mark.parametrize('file', sorted(folder.glob('*.safetensors')) or [pytest.param(None, marks=pytest.mark.skip('GANOMALY_DATA is not set'))], ids=lambda f: f and f.stem)
@pytest.mark.parametrize('device', devices)
def test_parity_with_the_authors_code(file, device, threads, tmp_path):
    eps = 1e-6 if device=='cpu' else 1e-3
    with safe_open(file, 'pt') as f: meta,t = f.metadata(),{k:f.get_tensor(k) for k in f.keys()}
    part = lambda p: {k[len(p):]:v for k,v in t.items() if k.startswith(p)}
    for net in ('netg','netd'): torch.save({'epoch':0, 'state_dict':part(f'init.{net}.')}, tmp_path/f'{net}.pth')
    model = GANomaly.from_original(tmp_path/'netg.pth', tmp_path/'netd.pth')
    assert model.args == dict(size=int(meta['isize']), nz=int(meta['nz']), nc=int(meta['nc']), nf=int(meta['ngf']), n_extra=int(meta['extralayers']))
    weights = {k:float(meta[k]) for k in ('w_adv','w_con','w_enc')}
    tol = max(eps, 4*reach(model, t['x'], float(meta['lr']), **weights)) if device=='cpu' else eps
    learn = train(model, t['x'], float(meta['lr']), device, **weights)

    columns = [dict(zip(meta['loss_columns'].split(','), row.tolist())) for row in t['losses']]
    near(losses(learn), [[c[k] for k in ('err_g_adv','err_g_con','err_g_enc','err_d_real','err_d_fake')] for c in columns], eps)
    for net,m in (('netg',model.generator), ('netd',model.discriminator)):
        ours,theirs = m.state_dict(),part(f'final.{net}.')
        assert ours.keys()==theirs.keys()
        for k in ours:
            if net=='netg' or not k.endswith(('running_mean','running_var','num_batches_tracked')): near(ours[k], theirs[k], tol)
    moved = torch.cat([(ours[k]-theirs[k]).abs().flatten() for k in ours if k.endswith('weight')]) if device=='cpu' else torch.zeros(1)
    assert (moved>eps).float().mean()<1e-3 # a few weights may need that tolerance, not many
    with torch.no_grad(): _,x_hat,z,z_hat = model.eval()(t['x'][0].to(device))
    near(x_hat, t['eval.x_hat'], eps); near(z, t['eval.z'], eps); near(z_hat, t['eval.z_hat'], eps)
    near(anomaly_score(z, z_hat, 'mse'), t['eval.score_mean_squared'], eps)
    with learn.no_bar(): near(learn.get_preds(dl=DataLoader(Steps([(t['x'][0], torch.zeros(len(x_hat)))]), bs=None), reorder=False)[0], t['eval.score_mean_squared'], eps)


@pytest.mark.parametrize('file', (golden, golden_extra), ids=lambda f: f.stem)
def test_parity_with_the_textbook(file, threads):
    g = np.load(file)
    size,nc,nf,nz,n_extra = [*map(int, g['settings']), 0][:5]
    model = GANomaly(size, nz=nz, nc=nc, nf=nf, n_extra=n_extra)
    params,n = list(model.parameters()),sum(k.startswith('init_') for k in g)
    assert len(params)==n
    with torch.no_grad():
        for i,p in enumerate(params): p.copy_(torch.from_numpy(g[f'init_{i:02}']))
    x,lr = torch.from_numpy(g['x']),float(g['lr'])
    tol = eps if threads==2 else max(eps, 4*reach(model, x, lr))
    learn = train(model, x, lr)
    near(losses(learn), g['losses'], eps)
    for i,p in enumerate(params): near(p, g[f'final_{i:02}'], tol)
    with torch.no_grad(): _,_,z,z_hat = model.eval()(x[0])
    near(anomaly_score(z, z_hat), g['score'], 1e-5)


def test_the_tolerance_is_no_blank_cheque():
    "A wrong activation is a thousand times larger than what `reach` allows"
    g = np.load(golden_extra)
    size,nc,nf,nz,n_extra = map(int, g['settings'])
    model = GANomaly(size, nz=nz, nc=nc, nf=nf, n_extra=n_extra)
    with torch.no_grad():
        for i,p in enumerate(model.parameters()): p.copy_(torch.from_numpy(g[f'init_{i:02}']))
    x,lr = torch.from_numpy(g['x']),float(g['lr'])
    tol = 4*reach(model, x, lr)
    for m in model.modules():
        if isinstance(m, torch.nn.LeakyReLU): m.negative_slope = .19
    params = list(train(model, x, lr).model.parameters())
    off = max((p-torch.from_numpy(g[f'final_{i:02}'])).abs().max().item() for i,p in enumerate(params))
    assert off>10*tol
