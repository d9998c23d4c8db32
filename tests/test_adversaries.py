"Every adversary goes through what the other losses are tested with: names, terms, reduction, who is taught, resets, NaN, continuing, files."
import numpy as np, pytest, torch
from fastai.basics import Callback, set_seed
from fastai.callback.training import GradientClip
from ganomaly_nb.adversaries import Critic, adversaries, adversary_learner
from ganomaly_nb.checkpoints import training_state
from ganomaly_nb.data import AnomalyDataLoaders
from ganomaly_nb.experiments import read_results, run_grid, settings
from ganomaly_nb.files import checksum, pack
from ganomaly_nb.learner import CheckpointCallback, ganomaly_learner, load_exported, load_model
from ganomaly_nb.networks import GANomaly

images,others = np.split(np.random.default_rng(0).integers(0, 256, (140,16,16), dtype=np.uint8), [120])


def make(path, adversary, make=adversary_learner, **kwargs):
    dls = AnomalyDataLoaders.from_arrays(images, others, np.arange(20)%2, held_out=.3, bs=16)
    name = dict(adversary=adversary) if make is adversary_learner else {}
    return make(dls, path=path, **{'seed':0, 'nz':4, 'nf':4, **name, **kwargs})


def fit(learn, *args, method='fit', **kwargs):
    with learn.no_bar(), learn.no_logging(): getattr(learn, method)(*args, **kwargs)
    return learn


def weights(m): return torch.cat([p.detach().flatten() for p in m.parameters()])
def got(m): return any(p.grad is not None and p.grad.abs().sum()>0 for p in m.parameters())


class Stop(Callback):
    "Ctrl-C in the midst of an epoch"
    only_looks = True
    def after_batch(self):
        if self.training and (self.epoch,self.iter)==(1,2): raise KeyboardInterrupt


@pytest.fixture(params=adversaries)
def name(request): return request.param


def test_terms_and_reduction(tmp_path, name):
    learn = fit(make(tmp_path, name), 2)
    loss,terms = learn.loss_func,learn.recorder.loss_terms
    assert tuple(terms)==loss.names and {len(v) for v in terms.values()}=={2*len(learn.dls.train)}
    assert np.isfinite(list(terms.values())).all()
    x = learn.dls.train.one_batch()[0]
    out = learn.model.train()(x)
    total,t = loss(out),loss.terms
    of_g = loss.w_adv*t['adv']+loss.w_con*t['con']+loss.w_enc*t['enc']
    torch.testing.assert_close(total.detach(), of_g+sum(t[k] for k in loss.names[3:])/2)
    loss.reduction = 'none'
    assert loss(learn.model.eval()(x)).shape==(len(x),) and loss(out).shape==()


def test_who_is_taught(tmp_path, name):
    "The generator's term reaches the decoder and never D; D's terms reach D and nobody else"
    learn = make(tmp_path, name, w_con=0., w_enc=0.)
    loss,G,D = learn.loss_func,learn.model.generator,learn.model.discriminator
    *_,a,b = (out := learn.model.train()(learn.dls.train.one_batch()[0]))[:6]
    adv = loss.adversarial(a, b, 'code')
    assert adv.requires_grad==(name!='none')
    if adv.requires_grad: adv.backward(retain_graph=True)
    assert got(G.decoder)==(name!='none') and not got(D)
    learn.model.zero_grad()
    sum(loss.discriminator(*out[6:])).backward()
    assert got(D) and not got(G)


def test_resets(tmp_path, name):
    "D starts afresh when it is too sure; a critic never does, not even with a loss of 0 or below"
    learn = make(tmp_path, name)
    learn.ganomaly.d_min = 1e9
    fit(learn, 1)
    critic = isinstance(learn.model.discriminator, Critic)
    assert critic==(name in ('wasserstein','gradient_penalty','hinge'))
    assert learn.ganomaly.n_resets==(0 if critic else len(learn.dls.train))


def test_stops_before_nan(tmp_path, name):
    learn = make(tmp_path, name)
    p = next(learn.model.discriminator.parameters())
    before = weights(learn.model)
    hook = p.register_hook(lambda g: g*float('nan'))
    with pytest.raises(FloatingPointError, match='epoch 0, batch 0'): fit(learn, 1)
    hook.remove()
    assert torch.equal(weights(learn.model), before)


def everything(learn):
    tensors = {}
    state = training_state(learn, {})
    state['callbacks'] = [learn.recorder.values, learn.ganomaly.loss_terms]
    return pack(state, tensors),{k:checksum(t).item() for k,t in tensors.items()}


def test_continued_is_undisturbed(tmp_path, name):
    "Vectors of the power iteration and random points of the penalty included"
    file = tmp_path/'c.ckpt'
    whole,first,second = [make(tmp_path, name, seed=s) for s in (0,0,5)]
    fit(whole, 3)
    with pytest.raises(KeyboardInterrupt): fit(first, 3, cbs=[CheckpointCallback(file), Stop()])
    assert everything(fit(second, 3, resume=file))==everything(whole)


def test_files_and_scores(tmp_path, name):
    "Saved and exported, it scores as before; an image's score does not depend on the batch"
    learn = fit(make(tmp_path, name, score='activations'), 1)
    learn.calibrate()
    assert learn.scorer.score_func.model is learn.model
    with learn.no_bar(): scores = learn.get_preds(dl=learn.dls.test)[0]
    again = load_model(learn.save_model(tmp_path/'m.safetensors'))
    assert torch.equal(weights(again.model), weights(learn.model)) and again.recipe==learn.recipe
    assert type(again.loss_func) is type(learn.loss_func) and type(again.model.discriminator) is type(learn.model.discriminator)
    for other in (again, load_exported(learn.export('m.pkl'))):
        alone = [other.predict(o)[2] for o in others[:3]]
        torch.testing.assert_close(torch.tensor(alone), scores[:3], rtol=1e-3, atol=1e-3)


def test_stock_fastai(tmp_path, name):
    "One cycle, clipping, bfloat16, colour, extra layers"
    learn = make(tmp_path, name, n_extra=1).to_bf16()
    assert weights(fit(learn, 1, 1e-3, method='fit_one_cycle', cbs=GradientClip(1.)).model).isfinite().all()
    rng = np.random.default_rng(0)
    dls = AnomalyDataLoaders.from_arrays(rng.random((40,32,16,3)), rng.random((4,32,16,3)), [0,1]*2, held_out=0, bs=16, size=(32,16))
    with pytest.warns(UserWarning, match='no threshold'): colour = adversary_learner(dls, nz=4, nf=4, adversary=name, path=tmp_path)
    assert weights(fit(colour, 1).model).isfinite().all()


def test_the_default_is_the_paper(tmp_path):
    "Bit for bit, with any weights and norm"
    for kwargs in ({}, dict(norm='paper', w_adv=3., w_con=2.)):
        a,b = [fit(make(tmp_path, None, make=m, **kwargs), 2) for m in (lambda dls, **kw: adversary_learner(dls, **kw), ganomaly_learner)]
        assert torch.equal(weights(a.model), weights(b.model)) and type(a.model) is GANomaly


def test_a_setting_of_experiments(tmp_path):
    "A column of the row; a wrong name is refused before anything is trained; rows of GANomaly have no such column"
    with pytest.raises(ValueError, match="adversary must be one of .*found 'best'"): settings('adversary', data='digits', adversary='best')
    assert 'adversary' not in settings(data='digits')
    small = dict(model=['adversary'], data=['digits'], epochs=[1], nf=[4], nz=[4], n_train=[64], adversary=['hinge','none'])
    df = run_grid(small, tmp_path/'r.csv')
    assert sorted(df.adversary)==['hinge','none'] and df.auroc.nunique()==2
    assert len(run_grid(small, tmp_path/'r.csv'))==2 and set(read_results(tmp_path/'r.csv').adversary)=={'hinge','none'}
