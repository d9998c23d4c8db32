"""GANomaly as a textbook would write it: plain PyTorch, two optimizers, and no line of ganomaly_nb.

`python tests/textbook.py` trains it for a few steps and writes `tests/golden.npz`, and with extra layers `tests/golden_extra.npz`: the
package must reproduce both. They were made with two threads.
The benchmark times the package against it.
"""
from pathlib import Path
import numpy as np, torch, torch.nn as nn

golden = Path(__file__).parent/'golden.npz'
golden_extra = golden.with_name('golden_extra.npz')


def extra_layers(nf, n, activation):
    "`n` convolutions of 3 x 3 that keep the size"
    return [m for _ in range(n) for m in (nn.Conv2d(nf, nf, 3, 1, 1, bias=False), nn.BatchNorm2d(nf), activation())]


class DownBlocks(nn.Module):
    "Image -> 4 x 4 grid -> vector"
    def __init__(self, size, nc, nf, n_out, n_extra=0):
        super().__init__()
        layers = [nn.Conv2d(nc, nf, 4, 2, 1, bias=False), nn.LeakyReLU(0.2)] + extra_layers(nf, n_extra, lambda: nn.LeakyReLU(0.2))
        while size>8:
            layers += [nn.Conv2d(nf, 2*nf, 4, 2, 1, bias=False), nn.BatchNorm2d(2*nf), nn.LeakyReLU(0.2)]
            size,nf = size//2,nf*2
        self.body,self.head = nn.Sequential(*layers),nn.Conv2d(nf, n_out, 4, bias=False)

    def forward(self, x):
        f = self.body(x)
        return self.head(f).flatten(1),f


class UpBlocks(nn.Module):
    "Vector -> 4 x 4 grid -> image"
    def __init__(self, size, nc, nf, nz, n_extra=0):
        super().__init__()
        k = nf*size//8
        layers = [nn.ConvTranspose2d(nz, k, 4, bias=False), nn.BatchNorm2d(k), nn.ReLU()]
        while k>nf:
            layers += [nn.ConvTranspose2d(k, k//2, 4, 2, 1, bias=False), nn.BatchNorm2d(k//2), nn.ReLU()]
            k //= 2
        self.body = nn.Sequential(*layers, *extra_layers(nf, n_extra, nn.ReLU), nn.ConvTranspose2d(nf, nc, 4, 2, 1, bias=False), nn.Tanh())

    def forward(self, z): return self.body(z[:,:,None,None])


class Textbook:
    "The three networks, two optimizers and a step in the order of the authors' code"
    def __init__(self, size=32, nc=1, nf=64, nz=100, lr=2e-4, n_extra=0):
        self.e1,self.e2 = [DownBlocks(size, nc, nf, nz, n_extra) for _ in range(2)]
        self.g,self.d = UpBlocks(size, nc, nf, nz, n_extra),DownBlocks(size, nc, nf, 1, n_extra)
        for m in self.modules():
            for layer in m.modules():
                if isinstance(layer, (nn.Conv2d,nn.ConvTranspose2d)): nn.init.normal_(layer.weight, 0, 0.02)
                if isinstance(layer, nn.BatchNorm2d): nn.init.normal_(layer.weight, 1, 0.02)
        g = [p for m in self.modules()[:3] for p in m.parameters()]
        self.opt_g,self.opt_d = [torch.optim.Adam(p, lr=lr, betas=(0.5,0.999)) for p in (g, self.d.parameters())]
        self.bce = nn.BCELoss()

    def modules(self): return [self.e1, self.g, self.e2, self.d]

    def step(self, x):
        "One training step; gives adv, con, enc, d_real, d_fake"
        z,_ = self.e1(x); x_hat = self.g(z); z_hat,_ = self.e2(x_hat)
        real,_ = self.d(x); fake,_ = self.d(x_hat.detach())
        real,fake = real.sigmoid(),fake.sigmoid()
        adv = (self.d(x)[1]-self.d(x_hat)[1]).pow(2).mean()
        con,enc = (x-x_hat).abs().mean(),(z_hat-z).pow(2).mean()
        self.opt_g.zero_grad()
        (1*adv + 50*con + 1*enc).backward()
        self.opt_g.step()
        d_real,d_fake = self.bce(real, torch.ones_like(real)),self.bce(fake, torch.zeros_like(fake))
        self.opt_d.zero_grad()
        (0.5*(d_real+d_fake)).backward()
        self.opt_d.step()
        return [o.item() for o in (adv, con, enc, d_real, d_fake)]

    @torch.no_grad()
    def score(self, x):
        "Equation 5, in evaluation mode"
        for m in self.modules(): m.eval()
        z,_ = self.e1(x)
        score = (z-self.e2(self.g(z))[0]).abs().sum(1)
        for m in self.modules(): m.train()
        return score

    def weights(self):
        "Parameters in the order in which an image meets them"
        return [p.detach().clone() for m in self.modules() for p in m.parameters()]


def make_golden(file=golden, steps=4, bs=6, size=16, nc=2, nf=4, nz=5, lr=1e-3, n_extra=0):
    torch.manual_seed(7)
    t = Textbook(size, nc, nf, nz, lr, n_extra)
    x = torch.rand(steps, bs, nc, size, size)*2-1
    out = dict(settings=np.array([size, nc, nf, nz, n_extra]), lr=np.array(lr), x=x.numpy())
    out |= {f'init_{i:02}':w.numpy() for i,w in enumerate(t.weights())}
    out['losses'] = np.array([t.step(b) for b in x])
    out |= {f'final_{i:02}':w.numpy() for i,w in enumerate(t.weights())}
    np.savez_compressed(file, score=t.score(x[0]).numpy(), **out)


if __name__=='__main__':
    torch.set_num_threads(2)
    make_golden()
    make_golden(golden_extra, n_extra=2)
