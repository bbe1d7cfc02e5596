"""Who is compared, and what is tried for each: hyper-parameters that suit a few thousand users and items.

Modules of models are imported where they are asked for: torch and implicit are extras.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from training.baselines.contract import Recipe
from training.benchmarks.case import Case
from training.benchmarks.comparison import Trial, compared

DIMS = (64, 128, 512, 4096)  # the last is more than a small catalogue has: all there is


def comparisons(trial: Callable[[], Trial], dims: Sequence[int] | None) -> list[Case]:
    """A case for each model on a trial; LED's at each dimension."""
    others = {
        "popular": popular,
        "cluster best-of": cluster_best,
        "item-knn": item_knn,
        "ease": ease,
        "wmf": wmf,
        "bpr-mf": bpr_mf,
        "ncf": ncf,
        "mult-dae": mult_dae,
        "mult-vae": mult_vae,
        "elsa": elsa,
    }
    ours = {"led, spectral": spectral, "led, pmi": pmi, "led, denoised": denoised}
    cases = [compared(name, recipes, trial) for name, recipes in others.items()]
    for name, recipes in ours.items():
        cases += [compared(name, partial(recipes, dim), trial) for dim in dims or DIMS]
    return cases


def popular() -> Sequence[Recipe]:
    from training.baselines.popularity import MostPopular

    return [MostPopular()]


def recent_popular() -> Sequence[Recipe]:
    from training.baselines.popularity import RecentPopular

    return [RecentPopular(60.0 * minutes) for minutes in (15, 30, 60, 180)]


def cluster_best() -> Sequence[Recipe]:
    from training.baselines.clusters import ClusterBest

    return [ClusterBest(clusters, dim) for clusters in (10, 30, 100) for dim in (16, 64)]


def item_knn() -> Sequence[Recipe]:
    from training.baselines.library import ItemNeighbours

    return [ItemNeighbours(count, kind) for kind in ("cosine", "tfidf", "bm25") for count in (20, 50, 100, 200)]


def ease() -> Sequence[Recipe]:
    from training.baselines.linear import Ease

    return [Ease(regularisation) for regularisation in (100, 200, 400, 600, 800, 1200)]


def wmf() -> Sequence[Recipe]:
    from training.baselines.library import ImplicitAls

    return [ImplicitAls(dim, r, alpha) for dim in (32, 64, 128) for r in (0.1, 1.0, 10.0) for alpha in (2.0, 5.0, 10.0)]


def bpr_mf() -> Sequence[Recipe]:
    from training.baselines.factors import BprMf

    return [BprMf(dim, l2=l2) for dim in (64, 128) for l2 in (0.003, 0.01, 0.03)]


def ncf() -> Sequence[Recipe]:
    from training.baselines.factors import Ncf

    return [Ncf(64, l2=l2) for l2 in (1e-4, 1e-3)]


def mult_dae() -> Sequence[Recipe]:
    from training.baselines.autoencoders import MultAutoencoder

    return [MultAutoencoder(False, beta=0.0, decay=decay) for decay in (0.0, 1e-5)]


def mult_vae() -> Sequence[Recipe]:
    from training.baselines.autoencoders import MultAutoencoder

    return [MultAutoencoder(beta=beta) for beta in (0.1, 0.2, 0.4)]


def elsa() -> Sequence[Recipe]:
    from training.baselines.elsa import Elsa

    return [Elsa(dim, rate) for dim in (256, 512, 1024) for rate in (0.02, 0.05)]


def spectral(dim: int) -> Sequence[Recipe]:
    from training.baselines.ours import SpectralLed

    return [SpectralLed(dim, a, p) for a in (0.2, 0.3, 0.4, 0.5) for p in (0.0, 0.5, 1.0)]


def spectral_with_news(dim: int) -> Sequence[Recipe]:
    """With what is popular now for a bias."""
    from training.baselines.ours import SpectralLed

    half_life_s = 1800.0
    shapes = [(a, p) for a in (0.2, 0.4) for p in (0.0, 1.0)]
    return [SpectralLed(dim, a, p, bias, half_life_s) for a, p in shapes for bias in (0.0, 0.2, 0.4, 0.8)]


def pmi(dim: int) -> Sequence[Recipe]:
    from training.baselines.ours import PmiLed
    from training.pmi import SCALINGS

    return [
        PmiLed(dim, bias, scaling, sums)
        for bias in (0.0, 0.02, 0.05, 0.1)
        for scaling in SCALINGS
        for sums in (False, True)
    ]


def denoised(dim: int) -> Sequence[Recipe]:
    from training.baselines.ours import DenoisedLed

    return [
        DenoisedLed(dim, a, q, r) for a in (0.2, 0.35) for q in (0.33, 0.5, 0.6) for r in (100.0, 200.0, 400.0, 800.0)
    ]
