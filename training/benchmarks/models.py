"""Who is compared, and what is tried for each: hyper-parameters that suit a few thousand users and items.

Modules of models are imported where they are asked for: torch and implicit are extras.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from training.baselines.contract import Recipe
from training.benchmarks.case import Case
from training.benchmarks.comparison import Trial, compared

if TYPE_CHECKING:
    from training.baselines.autoencoders import MultAutoencoder

DIMS = (128, 512, 2048)
WIDE = 1024


def comparisons(trial: Callable[[], Trial], dims: Sequence[int] | None, *, large: bool = False) -> list[Case]:
    """A case for each model on a trial, LED at each dimension. large: with what is published for MovieLens 20M."""
    others = {
        "popular": popular,
        "cluster best-of": cluster_best,
        "item-knn": item_knn,
        "ease": ease,
        "wmf": wmf,
        "bpr-mf": bpr_mf,
        "ncf": ncf,
        "mult-dae": mult_dae_published if large else mult_dae,
        "mult-vae": mult_vae_published if large else mult_vae,
        "elsa": elsa,
    }
    ours = {"led, spectral": spectral, "led, pmi": pmi, "led, denoised": denoised, "led, joined": joined}
    cases = [compared(name, recipes, trial) for name, recipes in others.items()]
    for name, recipes_at in ours.items():
        cases += [compared(name, partial(recipes_at, dim), trial) for dim in dims or DIMS]
    return cases


def popular() -> Sequence[Recipe]:
    from training.baselines.popularity import MostPopular

    return [MostPopular()]


def recent_popular() -> Sequence[Recipe]:
    from training.baselines.popularity import RecentPopular

    return [RecentPopular(60.0 * minutes) for minutes in (5, 15, 30, 60)]


def cluster_best() -> Sequence[Recipe]:
    from training.baselines.clusters import ClusterBest

    return [ClusterBest(clusters, dim) for clusters in (10, 30, 100) for dim in (16, 64)]


def item_knn() -> Sequence[Recipe]:
    from training.baselines.library import ItemNeighbours

    return [ItemNeighbours(count, kind) for kind in ("cosine", "bm25") for count in (50, 100, 200)]


def ease() -> Sequence[Recipe]:
    from training.baselines.linear import Ease

    return [Ease(regularisation) for regularisation in (200, 400, 600, 800)]


def wmf() -> Sequence[Recipe]:
    from training.baselines.library import ImplicitAls

    return [ImplicitAls(dim, r, alpha) for dim in (32, 64) for r in (1.0, 10.0) for alpha in (3.0, 10.0)]


def bpr_mf() -> Sequence[Recipe]:
    from training.baselines.factors import BprMf

    return [BprMf(64, l2=l2) for l2 in (0.003, 0.01)]


def ncf() -> Sequence[Recipe]:
    from training.baselines.factors import Ncf

    return [Ncf(64, l2=1e-3)]


def mult_dae() -> Sequence[Recipe]:
    return [replace(recipe, variational=False, beta=0.0) for recipe in _smaller_autoencoders((0.0,))]


def mult_vae() -> Sequence[Recipe]:
    return _smaller_autoencoders((0.2, 0.5))


def mult_dae_published() -> Sequence[Recipe]:
    from training.baselines.autoencoders import MultAutoencoder

    return [MultAutoencoder(False, beta=0.0, decay=1e-5)]


def mult_vae_published() -> Sequence[Recipe]:
    from training.baselines.autoencoders import MultAutoencoder

    return [MultAutoencoder(rise=40_000, passes=200)]


def elsa() -> Sequence[Recipe]:
    from training.baselines.elsa import Elsa

    return [Elsa(256, 0.1), Elsa(512, 0.02)]


def spectral(dim: int) -> Sequence[Recipe]:
    from training.baselines.ours import SpectralLed

    return [SpectralLed(dim, a, p) for a in (0.2, 0.4) for p in (0.0, 0.5, 1.0)]


def spectral_with_popularity(dim: int) -> Sequence[Recipe]:
    """For few events, which say less than popularity does: with a bias that counts."""
    from training.baselines.ours import SpectralLed

    return [SpectralLed(dim, a, p, bias) for a, p in ((0.2, 0.5), (0.4, 0.0)) for bias in (0.0, 0.1, 0.3, 1.0, 3.0)]


def denoised_with_popularity(dim: int) -> Sequence[Recipe]:
    """As above."""
    from training.baselines.ours import DenoisedLed

    return [DenoisedLed(dim, 0.35, 0.5, r, bias) for r in (200.0, 800.0) for bias in (0.0, 0.1, 0.3, 1.0, 3.0)]


def spectral_with_news(dim: int) -> Sequence[Recipe]:
    """With what is popular now for a bias."""
    from training.baselines.ours import SpectralLed

    half_life_s = 900.0
    return [SpectralLed(dim, 0.2, p, bias, half_life_s) for p in (0.0, 1.0) for bias in (0.8, 2.0, 4.0, 8.0)]


def pmi(dim: int) -> Sequence[Recipe]:
    from training.baselines.ours import PmiLed

    return [PmiLed(dim, bias, scaling) for bias in (0.0, 0.03, 0.1) for scaling in ("US", "U sqrt S")]


def joined(dim: int) -> Sequence[Recipe]:
    from training.baselines.ours import JoinedLed

    return [JoinedLed(dim, 0.35, 0.5, 400.0, weight) for weight in (0.5, 1.0, 2.0)]


def denoised(dim: int) -> Sequence[Recipe]:
    from training.baselines.ours import DenoisedLed

    if dim > WIDE:  # a minute each: what suited 512 dimensions
        return [DenoisedLed(dim, 0.35, 0.5, ridge) for ridge in (400.0, 600.0)]
    return [DenoisedLed(dim, a, 0.5, ridge) for a in (0.2, 0.35, 0.5) for ridge in (200.0, 400.0, 800.0)]


def _smaller_autoencoders(betas: Sequence[float]) -> list[MultAutoencoder]:
    """For some thousands of users: what is published for a hundred thousand learns their very rows."""
    from training.baselines.autoencoders import MultAutoencoder

    smaller = MultAutoencoder(hidden=200, dim=64, batch=100, passes=50, rise=1200, rate=3e-3)
    return [replace(smaller, beta=beta) for beta in betas]
