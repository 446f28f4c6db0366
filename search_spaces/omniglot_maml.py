"""Few-shot reading of handwritten characters (Omniglot), as Finn et al. 2017, section 5.2; needs the data set.

Other ways and shots: --set tasks.ways=20 --set tasks.shots=5.
"""

from bilevel import Adam, Cosine, Learned, MetaTraining, Space, Study, meta_train
from bilevel.inner import GradientDescent
from bilevel.nets import conv4
from bilevel.tasks import Omniglot

study = Study(
    name="omniglot-maml",
    objective=meta_train,
    maximize="valid/accuracy",
    space=Space(
        MetaTraining,
        tasks=Omniglot(ways=5, shots=1, queries=5),
        episodes=8,
        steps=10_000,
        unit=4,
        test_steps=3,
        rule=Space(
            GradientDescent,
            init=Learned(Space(conv4, mean=False), by=Adam(5e-3, clip=10.0, schedule=Cosine())),
            lr=Learned(0.4, by=Adam(1e-2, schedule=Cosine()), per="tensor"),
            steps=1,
        ),
    ),
)
