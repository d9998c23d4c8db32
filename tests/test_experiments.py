"Experiments that are killed, spread over processes, or train one model together."
import os, signal, subprocess, sys, time
from pathlib import Path
import joblib, numpy as np, pandas as pd, pytest, torch
from ganomaly_nb.experiments import *
from ganomaly_nb.experiments import defaults
from ganomaly_nb.learner import AnomalyLearner

here = Path(__file__).parent
small = dict(data='digits', bs=32, nf=8, nz=16, epochs=1, n_train=320)
six = ['data=digits','abnormal=0,1,2','seed=0,1','bs=32','nf=8','nz=16','epochs=1','n_train=320']
results = ['model','abnormal','seed','scoring','auroc','auprc','eer','test_images']


def in_order(df): return df[results].sort_values(results[:4]).reset_index(drop=True)


@pytest.mark.slow
def test_killed_and_continued(tmp_path, env):
    "SIGKILL in the middle of a grid, then the same command: the rows of an undisturbed grid, and none twice"
    env = {**env, 'OMP_NUM_THREADS':'1'}
    p = subprocess.Popen(['ganomaly_experiment', tmp_path/'a.csv', *six], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic()+240
    while not ((tmp_path/'a.csv').exists() and len(read_results(tmp_path/'a.csv'))>=2):
        assert p.poll() is None and time.monotonic()<deadline, 'the grid ended before it could be killed'
        time.sleep(.01)
    os.killpg(p.pid, signal.SIGKILL)
    assert p.wait()==-signal.SIGKILL
    before = pd.read_csv(tmp_path/'a.csv', dtype=str)
    assert 2<=len(before)<6
    for f,args in (('a.csv',[]), ('b.csv',['--jobs','2'])): subprocess.run(['ganomaly_experiment', tmp_path/f, *six, *args], env=env, check=True, capture_output=True)
    after = pd.read_csv(tmp_path/'a.csv', dtype=str)
    pd.testing.assert_frame_equal(after[:len(before)], before) # with their times and dates: nothing was done again
    assert len(after)==6
    pd.testing.assert_frame_equal(in_order(read_results(tmp_path/'a.csv')), in_order(read_results(tmp_path/'b.csv')))


@pytest.mark.slow
def test_many_writers(tmp_path):
    "Whoever adds rows at the same time: none is lost, none is there twice"
    row = settings(**small)
    rows = [{**row, 'seed':i%60, 'auroc':.5} for i in range(120)]
    joblib.Parallel(n_jobs=8, backend='threading')(joblib.delayed(add_rows)(tmp_path/'r.csv', [r]) for r in rows)
    joblib.Parallel(n_jobs=2)(joblib.delayed(add_rows)(tmp_path/'r.csv', [{**r, 'seed':r['seed']+30}]) for r in rows[:60])
    assert sorted(read_results(tmp_path/'r.csv').seed)==list(range(90))


def test_stopped_while_writing(tmp_path, monkeypatch):
    "A write that is cut short leaves the rows that were there"
    row,file = settings(**small),tmp_path/'r.csv'
    add_rows(file, [{**row, 'seed':i} for i in range(5)])
    before = file.read_text()
    def half(self, rows):
        self.writerow(next(iter(rows)))
        raise KeyboardInterrupt
    monkeypatch.setattr('csv.DictWriter.writerows', half)
    with pytest.raises(KeyboardInterrupt): add_rows(file, [{**row, 'seed':5}])
    assert file.read_text()==before
    monkeypatch.undo()
    add_rows(file, [{**row, 'seed':5}])
    assert read_results(file).seed.tolist()==list(range(6))


def test_failure_is_a_row(tmp_path):
    "One that fails is recorded and does not stop the others"
    def breaks(dls, **kwargs): raise RuntimeError('out of\nluck')
    models['breaks'] = breaks
    try: df = run_grid([{k:[v] for k,v in {**small, 'model':m}.items() if m=='ganomaly' or k not in ('nf','nz')} for m in ('breaks','ganomaly')], tmp_path/'r.csv')
    finally: del models['breaks']
    assert df.model.tolist()==['ganomaly'] and 'error' not in df
    assert set(pd.read_csv(tmp_path/'r.csv').error.dropna())=={'RuntimeError: out of luck'}


@pytest.mark.parametrize('change', [dict(model='vae'), dict(abnormal=1), dict(seed=1), dict(split_seed=1), dict(protocol='paper', held_out=.2), dict(epochs=2), dict(n_train=64), dict(bs=16), dict(size=32),
                                    dict(stats='mnist'), dict(precision='bf16'), dict(nz=8), dict(lr=1e-3), dict(w_con=1.), dict(norm='paper'), dict(scoring='mse'), dict(n_test=60)], ids=str)
def test_every_setting_has_an_effect(change, tmp_path_factory):
    "Also if weights are kept: those of other settings are not taken"
    base,kept = {**small, 'abnormal':0},tmp_path_factory.getbasetemp()/'kept'
    default,changed = [run_experiment(weights=kept, **o)['auroc'] for o in (base, {**base, **change})]
    assert changed != default


@pytest.mark.slow
def test_dask(tmp_path):
    "The same call on a cluster of two processes gives the same rows"
    dask = pytest.importorskip('dask.distributed')
    grid = {k:[v] for k,v in small.items()} | dict(abnormal=[0,1])
    with dask.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None, silence_logs='CRITICAL') as cluster, dask.Client(cluster), joblib.parallel_config(backend='dask'):
        df = run_grid(grid, tmp_path/'dask.csv')
    pd.testing.assert_frame_equal(in_order(df), in_order(run_grid(grid, tmp_path/'here.csv')))


@pytest.mark.slow
@pytest.mark.parametrize('d_min,resets', [(1e-5,0), (10.,15)])
def test_train_together(d_min, resets, tmp_path, env):
    "Two processes, one model: the same weights, scores and recorded terms in both, also when D is reset"
    pytest.importorskip('accelerate')
    r = subprocess.run(['torchrun','--nproc_per_node','2', here/'train_together.py', tmp_path, str(d_min)], env={**env, 'OMP_NUM_THREADS':'1'}, capture_output=True, text=True)
    assert r.returncode==0, r.stderr[-3000:]
    a,b = [torch.load(tmp_path/f'{i}.pt') for i in (0,1)]
    assert torch.equal(a['weights'], b['weights']) and torch.equal(a['scores'], b['scores']) and a['terms']==b['terms']
    assert len(a['terms']['con'])==15 and a['terms']['con'][-1]<a['terms']['con'][0]
    assert a['resets']==b['resets']==resets


# Files of results

foreign = {'prices':'name,price\ntea,3\n', 'nothing':'', 'text':'Dear Sir,\n', 'header only':'name,price\n', 'bytes':b'\xff\xfe\x00\x01',
           'torn':'model,data,abnormal,seed,scoring\nvae,mnist,0,0,prob\nvae,mn', 'too many':'model,data,abnormal,seed,scoring\nvae,mnist,0,0,prob,1,2\n'}

@pytest.mark.parametrize('use', [read_results, failures, lambda f: add_rows(f, [settings(**small)]), lambda f: run_grid(dict(data=['digits']), f)],
                         ids=['read_results','failures','add_rows','run_grid'])
@pytest.mark.parametrize('kind', foreign)
def test_file_of_somebody_else(kind, use, tmp_path):
    "It is refused by name, and stays as it is"
    content = foreign[kind] if isinstance(foreign[kind], bytes) else foreign[kind].encode()
    file = tmp_path/'mine.csv'
    file.write_bytes(content)
    with pytest.raises(ValueError, match='mine.csv is (no file of results|torn)'): use(file)
    assert file.read_bytes()==content and not list(tmp_path.glob('*.part'))


@pytest.mark.parametrize('name', [k for k in settings(**small)])
def test_every_setting_tells_experiments_apart(name, tmp_path):
    "Two rows that differ in one setting are two experiments, for the file and for the list of what is left to do"
    row = settings(**small)
    add_rows(tmp_path/'r.csv', [{**row, 'auroc':.5}, {**row, name:'other', 'auroc':.6}, {**row, 'date':'today', 'auroc':.7}])
    assert pd.read_csv(tmp_path/'r.csv').auroc.tolist()==[.7,.6]
    assert experiment_key(row)!=experiment_key({**row, name:'other'})
    assert (training_digest(row)==training_digest({**row, name:'other'}))==(name in ('scoring','n_test'))


def test_what_is_done_is_not_done_again(tmp_path):
    "Also with other weights of the losses: each of these settings is left to do by itself"
    grid = {k:[v] for k,v in small.items()} | dict(abnormal=[0])
    add_rows(tmp_path/'r.csv', [{**settings(**small, abnormal=0), 'auroc':.5}])
    assert open_jobs(grid, tmp_path/'r.csv')==[]
    for change in (dict(w_con=[1.]), dict(w_adv=[0.]), dict(norm=['paper']), dict(seed=[1]), dict(scoring=['mse']), dict(n_test=[50]), dict(monitor=[True])):
        assert len(open_jobs({**grid, **change}, tmp_path/'r.csv'))==1, change
    assert open_jobs({**grid, 'w_con':[50]}, tmp_path/'r.csv')==[] # the same number without its point


wrong = {
    'model':(dict(model=['ganomoly']), 'model must be one of'), 'data':(dict(data=['mnst']), 'data must be one of'),
    'stats':(dict(stats=['mean']), 'stats must be one of'), 'precision':(dict(precision=['fp8']), 'precision must be one of'),
    'protocol':(dict(protocol=['mine']), 'protocol must be one of'), 'scoring':(dict(scoring=['best']), "found 'best'"),
    'scoring of another model':(dict(model=['vae'], scoring=['l1']), 'scoring of vae must be one of'),
    'scoring of a model without a choice':(dict(model=['anogan'], scoring=['mse']), 'scoring of anogan'),
    'option of another model':(dict(model=['vae'], w_con=[1.]), r"vae has no option \['w_con'\]"),
    'typing error':(dict(epoch=[1]), r"no option \['epoch'\]"), 'epochs':(dict(epochs=[0]), 'epochs must be'),
    'epochs of a half':(dict(epochs=[.5]), 'epochs must be'), 'bs':(dict(bs=[0]), 'bs must be'), 'nz':(dict(nz=[-1]), 'nz must be'),
    'nf':(dict(nf=['8']), 'nf must be'), 'n_extra':(dict(n_extra=[-1]), 'n_extra must be'), 'lr':(dict(lr=[0]), 'lr must be'),
    'nan':(dict(lr=[float('nan')]), 'lr must be'), 'w_con':(dict(w_con=[-1]), 'w_con must be'), 'held_out':(dict(held_out=[1.]), 'held_out must be'),
    'n_train':(dict(n_train=[0]), 'n_train must be'), 'n_test':(dict(n_test=[2.5]), 'n_test must be'), 'seed':(dict(seed=[-1]), 'seed must be'),
    'split_seed':(dict(split_seed=['a']), 'split_seed must be'), 'size':(dict(size=[27]), 'size must have'), 'sizes':(dict(size=[(16,32)]), 'size must be one number'), 'monitor':(dict(monitor=['yes']), 'monitor must be'),
    'twice':(dict(abnormal=[0,1,0]), 'abnormal is given the value 0 twice'), 'twice, as text':(dict(abnormal=[0,'0']), 'given the value 0 twice'),
    'the second grid':([dict(seed=[0]), dict(bs=[0])], 'bs must be'),
}

@pytest.mark.parametrize('kind', wrong)
def test_wrong_settings(kind, tmp_path, monkeypatch):
    "One error before anything is trained or written"
    monkeypatch.setattr(AnomalyLearner, 'fit', lambda *args, **kwargs: pytest.fail('trained'))
    grid,message = wrong[kind]
    with pytest.raises(ValueError, match=message): run_grid(grid, tmp_path/'r.csv')
    assert not list(tmp_path.iterdir())

@pytest.mark.parametrize('grid', [dict(abnormal=3), dict(model='vae'), dict(seed=None)], ids=str)
def test_settings_that_are_no_list(grid, tmp_path):
    with pytest.raises(TypeError, match='must be a list of values'): run_grid(grid, tmp_path/'r.csv')


def test_own_scores_are_those_of_the_learners():
    "The table of scores agrees with what each learner takes"
    for name,known in own_scores.items():
        for scoring in known: check_scoring(name, scoring)
        default = defaults(models[name]).get('score', name)
        assert default in known
        if 'score' in defaults(models[name]):
            with pytest.raises(ValueError) as e: models[name](None, score='best')
            for scoring in known: assert repr(scoring) in str(e.value)


# Failures and interruptions

def test_failed_once_is_not_run_again(tmp_path, capsys):
    "One attempt for all scores of a training, none in the next call, one more with `retry`"
    attempts = []
    def breaks(dls, score='l1', **kwargs):
        attempts.append(1)
        raise RuntimeError('out of\nluck')
    models['breaks'] = breaks
    grid = dict(model=['breaks'], data=['digits'], abnormal=[0], scoring=['l1','mse'])
    try:
        for retry,n in ((False,1), (False,1), (True,2)):
            df = run_grid(grid, tmp_path/'r.csv', retry=retry)
            assert (len(attempts), len(df))==(n,0)
            assert {'auroc','auprc','eer'}<=set(df)
            found = failures(tmp_path/'r.csv')
            assert found.error.tolist()==['RuntimeError: out of luck']*2
            assert found.scoring.tolist()==['l1','mse'] and found.model.tolist()==['breaks']*2
    finally: del models['breaks']


@pytest.mark.parametrize('n_jobs', [1,2])
def test_ctrl_c(n_jobs, tmp_path):
    "A real SIGINT in the second training: the rows of the first are there, and the same call goes on"
    fit,n = AnomalyLearner.fit,[]
    def interrupted(learn, dl):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)
    scorings['interrupted'] = interrupted
    grid = {k:[v] for k,v in small.items()} | dict(abnormal=[0], scoring=['l1','mse','interrupted'])
    before = signal.signal(signal.SIGINT, signal.default_int_handler) # a shell in the background ignores it
    try:
        with pytest.raises(KeyboardInterrupt, match='r.csv: the same call goes on'): run_grid(grid, tmp_path/'r.csv', n_jobs=n_jobs)
        assert read_results(tmp_path/'r.csv').scoring.tolist()==['l1','mse']
        assert [len(o) for o in open_jobs(grid, tmp_path/'r.csv')]==[1]
    finally:
        signal.signal(signal.SIGINT, before)
        del scorings['interrupted']
    assert not list(tmp_path.glob('*.part'))


def test_names_that_nobody_shares(tmp_path, monkeypatch):
    "Processes with one number, as in two containers, write beside each other"
    monkeypatch.setattr(os, 'getpid', lambda: 1)
    with written_whole(tmp_path/'a') as one, written_whole(tmp_path/'a') as two:
        assert one!=two and one.parent==two.parent==tmp_path
        one.write_text('one'); two.write_text('two')
    assert (tmp_path/'a').read_text()=='one' and len(list(tmp_path.iterdir()))==1


def test_deviation_of_a_sample():
    "n-1, not n"
    rows = [{**settings(**small, seed=i), 'auroc':v, 'device':'cpu'} for i,v in enumerate((.5,.6,.8))]
    bar = over_seeds(pd.DataFrame(rows), ['model','abnormal']).iloc[0]
    assert bar['std']==pytest.approx(np.std([.5,.6,.8], ddof=1)) and bar['mean']==pytest.approx(1.9/3)
    assert (bar.low, bar.high, bar.n)==(.5,.8,3)


@pytest.mark.parametrize('name', ['NA','null','nan','None','007','1_0'])
def test_classes_with_odd_names(name, tmp_path):
    "The class is text: nothing turns it into a number or into nothing"
    add_rows(tmp_path/'r.csv', [{**settings(**small, abnormal=name), 'auroc':.5}])
    assert read_results(tmp_path/'r.csv').abnormal.tolist()==[name]
    assert open_jobs({k:[v] for k,v in small.items()} | dict(abnormal=[name]), tmp_path/'r.csv')==[]
