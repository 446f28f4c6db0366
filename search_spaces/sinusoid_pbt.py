"""A hybrid: gradients where there are gradients, a population for the rest (Jaderberg et al. 2017).

A network's start and one inner learning rate per tensor are learned by gradient. The outer rate, which no gradient
reaches, is found meanwhile: four members, each with a start of its own, train side by side; at every turn the worst one
goes on from the best, at a rate near to it. All together adapt to 32,000 training episodes.
"""

from bilevel import PBT, Adam, Learned, Log, MetaTraining, Space, Study, meta_train
from bilevel.inner import GradientDescent
from bilevel.nets import mlp
from bilevel.tasks import Sinusoid

study = Study(
    name="sinusoid-pbt",
    objective=meta_train,
    minimize="valid/loss",
    value="best",  # of a member's validations: those weights are kept, and tested
    search=PBT(members=4, every=100),
    space=Space(
        MetaTraining,
        tasks=Sinusoid(shots=10, queries=10),
        episodes=16,
        steps=500,
        unit=100,
        validate_every=50,
        test_steps=5,
        rule=Space(
            GradientDescent,
            init=Learned(mlp, by=Space(Adam, lr=Log(1e-4, 1e-1), clip=10.0)),
            lr=Learned(0.01, by=Adam(1e-2), per="tensor"),
            steps=5,
        ),
    ),
)
