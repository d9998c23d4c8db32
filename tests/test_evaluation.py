"Wrong input to the metrics, and interpretations that outlive their learner."
import numpy as np, pytest, torch
import matplotlib.pyplot as plt
from fastai.basics import set_seed
from ganomaly_nb.data import AnomalyDataLoaders
from ganomaly_nb.learner import ganomaly_learner
from ganomaly_nb.evaluation import *

metrics = [auroc, auprc, eer, tpr_at_fpr, lambda y,s: f1_at_threshold(y, s, 1.), lambda y,s: bootstrap_ci(auroc, y, s, n=20)]
bad = {
    'other labels':([0,1,2], [1,2,3], r'labels must be 0 \(normal\) or 1 \(abnormal\), found \[2.0\]'),
    'minus one':([-1,1,1], [1,2,3], r'found \[-1.0\]'),
    'soft labels':([.2,1,0], [1,2,3], r'found \[0.2\]'),
    'nan labels':([0,1,np.nan], [1,2,3], r'found \[nan\]'),
    'words':(['ok','bad'], [1,2], 'labels must be numbers'),
    'none among labels':([0,None], [1,2], r'found \[nan\]'),
    'no labels':(None, [1,2], 'no labels'),
    'nan scores':([0,1], [1,np.nan], 'scores must be finite, found 1 of 2'),
    'infinite scores':([0,1], [1,-np.inf], 'scores must be finite, found 1 of 2'),
    'words as scores':([0,1], ['a','b'], 'scores must be numbers'),
    'fewer scores':([0,1,1], [1,2], 'found 3 labels and 2 scores'),
    'no scores':([0,1], [], 'found 2 labels and 0 scores'),
    'all normal':([0,0], [1,2], 'found 2 normal and 0 abnormal'),
    'all abnormal':([1,1], [1,2], 'found 0 normal and 2 abnormal'),
    'nothing':([], [], 'found 0 normal and 0 abnormal'),
    'a column':([[0],[1]], [[1],[2]], r'must have the shape \(N,\), found \(2, 1\)'),
    'ragged':([0,1], [[1],[2,3]], 'scores must be numbers'),
    'a number':(0, 1., r'must have the shape \(N,\)'),
}

@pytest.mark.parametrize('metric', metrics, ids=['auroc','auprc','eer','tpr_at_fpr','f1','interval'])
@pytest.mark.parametrize('kind', bad)
def test_one_clear_error(metric, kind):
    y,s,message = bad[kind]
    with pytest.raises(ValueError, match=message): metric(y, s)


@pytest.mark.parametrize('metric', metrics)
@pytest.mark.parametrize('make', [list, np.array, torch.tensor, lambda v: np.array(v, dtype=np.float32)])
def test_kinds_of_input(metric, make):
    "Lists, arrays and tensors give one number"
    y,s = [0,1,0,1,1],[.5,.75,1.25,2.,.25]
    assert metric(make(y), make(s))==metric(y, s)
    assert metric(np.array(y, bool), s)==metric(y, s)


def test_bootstrap_of_its_seed():
    "The seed, the level and the draws each change the interval; the same ones give it again"
    rng = np.random.default_rng(0)
    y,s = np.arange(60)%2,rng.normal(size=60)
    one = bootstrap_ci(auroc, y, s, n=100)
    assert bootstrap_ci(auroc, y, s, n=100)==one
    assert len({one, *(bootstrap_ci(auroc, y, s, **{**dict(n=100), **k}) for k in (dict(seed=1), dict(seed=2), dict(level=.8), dict(n=101)))})==5


@pytest.fixture(scope='module')
def learn(tmp_path_factory):
    set_seed(0)
    dls = AnomalyDataLoaders.from_digits(abnormal=0, n_train=128, held_out=.1, bs=32)
    learn = ganomaly_learner(dls, nz=8, nf=4, path=tmp_path_factory.mktemp('learn'))
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
    return learn


def test_keeps_what_it_measured(learn):
    "Neither a new calibration nor more training changes the record; pictures of other weights are refused"
    interp = AnomalyInterpretation.from_learner(learn)
    table,threshold = interp.summary(n=10),interp.calibration.threshold
    learn.calibrate(fpr=.4)
    assert learn.calibration.threshold!=threshold
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
    assert learn.calibration is None
    assert interp.summary(n=10).equals(table)
    assert interp.plot_scores().lines[0].get_xdata()[0]==threshold
    assert len(interp.plot_roc().lines)==3
    plt.close('all')
    for f in (lambda: interp.features([0]), lambda: interp.plot_tsne(10), interp.show_reconstructions, interp.plot_top_losses):
        with pytest.raises(ValueError, match='other weights than those that were measured'): f()
    AnomalyInterpretation.from_learner(learn).show_reconstructions(1)
    plt.close('all')


def test_map_is_of_features(learn, monkeypatch):
    "What t-SNE gets are the features of the images that were drawn, and the seed draws them"
    import sklearn.manifold
    seen = []
    class Spy:
        def __init__(self, **kwargs): self.seed = kwargs['random_state']
        def fit_transform(self, x):
            seen.append((self.seed, x))
            return x[:,:2]
    monkeypatch.setattr(sklearn.manifold, 'TSNE', Spy)
    interp = AnomalyInterpretation.from_learner(learn)
    for seed in (0,3):
        interp.plot_tsne(n=20, seed=seed)
        idxs = np.random.default_rng(seed).permutation(len(interp.y))[:20].tolist()
        assert seen[-1][0]==seed
        np.testing.assert_array_equal(seen[-1][1], interp.features(idxs).numpy())
    assert seen[0][1].shape!=(20, 16*16) and not np.array_equal(seen[0][1], seen[1][1])
    plt.close('all')


def test_watching_changes_nothing(learn):
    "The monitor draws no random number, and fits a fitted score anew in each epoch"
    def run(score, cbs):
        set_seed(0)
        new = ganomaly_learner(AnomalyDataLoaders.from_digits(abnormal=0, n_train=128, held_out=.1, bs=32), nz=8, nf=4, score=score)
        with new.no_bar(), new.no_logging(): new.fit(2, cbs=cbs)
        return new
    assert weights_digest(run('l1', TestAUROCMonitorOnly()).model)==weights_digest(run('l1', []).model)
    watch = TestAUROCMonitorOnly()
    fitted = run('activations', watch)
    unwatched = AnomalyInterpretation.from_learner(run('activations', []))
    assert watch.history[-1]==pytest.approx(unwatched.auroc)
    torch.testing.assert_close(AnomalyInterpretation.from_learner(fitted).scores, unwatched.scores) # no fit of an earlier epoch is left
    assert watch.history[0]!=watch.history[1]
