"Experiments that are killed, spread over processes, or train one model together."
import os, signal, subprocess, sys, time
from pathlib import Path
import joblib, numpy as np, pandas as pd, pytest, torch
from ganomaly_nb.experiments import add_rows, models, read_results, run_experiment, run_grid, settings

here = Path(__file__).parent
small = dict(data='digits', bs=32, nf=8, nz=16, epochs=1, n_train=320)
six = ['data=digits','abnormal=0,1,2','seed=0,1','bs=32','nf=8','nz=16','epochs=1','n_train=320']
results = ['model','abnormal','seed','scoring','auroc','auprc','eer','test_images']


def in_order(df): return df[results].sort_values(results[:4]).reset_index(drop=True)


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


def test_dask(tmp_path):
    "The same call on a cluster of two processes gives the same rows"
    dask = pytest.importorskip('dask.distributed')
    grid = {k:[v] for k,v in small.items()} | dict(abnormal=[0,1])
    with dask.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None, silence_logs='CRITICAL') as cluster, dask.Client(cluster), joblib.parallel_config(backend='dask'):
        df = run_grid(grid, tmp_path/'dask.csv')
    pd.testing.assert_frame_equal(in_order(df), in_order(run_grid(grid, tmp_path/'here.csv')))


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
