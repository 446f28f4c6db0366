"""Follow a new patient from five readings: Parkinsons telemonitoring, a task per patient; needs the data set.

The severity score (total UPDRS) of a patient who was never seen is predicted from the time and 19 measures of speech,
given five of her readings. Other folds: --set tasks.fold=1; the first five instead of any: --set tasks.choose=first.
"""

from bilevel import Adam, Learned, MetaTraining, Space, Study, meta_train
from bilevel.inner import GradientDescent
from bilevel.nets import mlp
from bilevel.outer import Cosine
from bilevel.tasks import Grouped

study = Study(
    name="patients-maml",
    objective=meta_train,
    minimize="valid/loss",
    space=Space(
        MetaTraining,
        tasks=Grouped(
            "parkinsons_telemonitoring/parkinsons_updrs.csv",
            task="subject#",
            y="total_UPDRS",
            drop=("motor_UPDRS",),  # the same score, in part
            support=5,
            queries=40,
            choose="random",
        ),
        episodes=8,
        steps=3000,
        test_steps=10,
        rule=Space(
            GradientDescent,
            init=Learned(Space(mlp, hidden=(40, 40), activation="tanh"), by=Adam(1e-3, clip=1.0, schedule=Cosine())),
            lr=Learned(0.05, by=Adam(1e-2, schedule=Cosine()), per="tensor"),
            steps=10,
        ),
    ),
)
