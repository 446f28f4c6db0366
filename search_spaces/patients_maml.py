"""Follow a new patient from five readings: Parkinsons telemonitoring, a task per patient; needs the data set.

The severity (total UPDRS) of a patient who was never seen, at any day, from five of her readings. The day alone serves:
with the 16 measures of speech too (--set tasks.features=null) five labels no longer tell what matters for her.
Other folds of patients: --set tasks.fold=1; her first five readings instead of any five: --set tasks.choose=first.
"""

from bilevel import Adam, Cosine, Learned, MetaTraining, Space, Study, meta_train
from bilevel.inner import GradientDescent
from bilevel.nets import mlp
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
            features=("test_time",),
            drop=("motor_UPDRS",),  # a part of the score: it would give the answer away
            support=5,
            queries=40,
            choose="random",
        ),
        episodes=8,
        steps=1500,
        test_steps=10,
        rule=Space(
            GradientDescent,
            init=Learned(Space(mlp, hidden=(40, 40)), by=Adam(3e-3, clip=1.0, schedule=Cosine())),
            lr=Learned(0.1, by=Adam(1e-2, schedule=Cosine()), per="tensor"),
            steps=10,
        ),
    ),
)
