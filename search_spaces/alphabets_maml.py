"""The main job: learn to read new alphabets from one example a letter.

Trained on Latin and Greek letters, tested on Armenian and Georgian ones, which it has never seen: five letters, one
example of each, which is which? Nothing to download: the letters are drawn from fonts that are installed anyway.
"""

from bilevel import Adam, Cosine, Learned, MetaTraining, Space, Study, meta_train
from bilevel.inner import GradientDescent
from bilevel.nets import conv4
from bilevel.tasks import Alphabets

study = Study(
    name="alphabets-maml",
    objective=meta_train,
    maximize="valid/accuracy",
    space=Space(
        MetaTraining,
        tasks=Alphabets(ways=5, shots=1, queries=5),
        episodes=4,  # few: with a rate that falls to 0, many small steps learn more in the same time
        steps=2400,
        unit=2,
        validate_every=400,
        validate_episodes=100,
        test_steps=3,
        rule=Space(
            GradientDescent,
            init=Learned(Space(conv4, hidden=48, mean=False), by=Adam(5e-3, clip=10.0, schedule=Cosine())),
            lr=Learned(0.4, by=Adam(1e-2, schedule=Cosine()), per="tensor"),
            steps=1,
        ),
    ),
)
