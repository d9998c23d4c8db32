"""GANomaly beside its successors, one budget for all: `python benchmarks/successors.py mnist DATA`, or `cifar10 DATA`.

Ten classes, images of 16 x 16, nf=16, 5,000 normals, ten epochs in batches of 32, 5,000 test images; controls on the same images.
The grid goes on where it stopped; rows go to `benchmarks/successors_<data>.csv`, seed 0 first.
"""
import sys, warnings
from pathlib import Path

warnings.filterwarnings('ignore')
from ganomaly_nb.experiments import run_grid

own = dict(ganomaly='l1', fanogan='izi_f', skip='both', adae='adae', alad='fm', egbad='fm', vae='prob')
controls = 'brightness','PCA','neighbours of pixels','half-local neighbours'
classes = dict(mnist=list(range(10)), cifar10='airplane automobile bird cat deer dog frog horse ship truck'.split())
budget = dict(n_train=[5000], size=[16], n_test=[5000])


def grid(data, seed):
    "Settings of all experiments of one seed"
    each = dict(budget, data=[data], abnormal=classes[data], seed=[seed])
    trained = [dict(each, model=[m], scoring=[s], epochs=[10], bs=[32], nf=[16]) for m,s in own.items()]
    return [*trained, dict(each, model=['control'], scoring=list(controls))]


if __name__=='__main__':
    data,path = sys.argv[1:]
    for seed in range(3): run_grid(grid(data, seed), Path(__file__).parent/f'successors_{data}.csv', path=path)
