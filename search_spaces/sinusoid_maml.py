"""Learn to regress a sinusoid from ten points (Finn et al. 2017, section 5.1), in at most 32,000 training episodes.

The network's start and one inner learning rate per tensor are learned by gradient.
"""

from bilevel import Adam, Cosine, Learned, MetaTraining, Space, Study, meta_train
from bilevel.inner import GradientDescent
from bilevel.nets import mlp
from bilevel.tasks import Sinusoid

study = Study(
    name="sinusoid-maml",
    objective=meta_train,
    minimize="valid/loss",
    space=Space(
        MetaTraining,
        tasks=Sinusoid(shots=10, queries=10),
        episodes=4,
        steps=8000,
        test_steps=10,
        rule=Space(
            GradientDescent,
            init=Learned(mlp, by=Adam(3e-3, clip=10.0, schedule=Cosine())),
            lr=Learned(0.03, by=Adam(1e-2, schedule=Cosine()), per="tensor"),
            steps=5,
        ),
    ),
)
