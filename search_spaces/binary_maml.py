"""Tell any two digits apart from a few examples of each: binary tasks, a network with one logit, tabular data.

The data come with scikit-learn: 1,797 digits of 8 x 8 pixels as rows of 64 numbers. Digits 0 to 4 train, 5 and 6
validate, 7 to 9 test. With labels that mean nothing it must stay at chance: --set tasks.shuffled=true.
"""

from sklearn.datasets import load_digits

from bilevel import Adam, Cosine, Learned, MetaTraining, Space, Study, meta_train
from bilevel.inner import GradientDescent
from bilevel.nets import mlp
from bilevel.tasks import Episodes

pixels, digits = load_digits(return_X_y=True)
splits = {"train": range(5), "valid": (5, 6), "test": (7, 8, 9)}

study = Study(
    name="binary-maml",
    objective=meta_train,
    maximize="valid/accuracy",
    space=Space(
        MetaTraining,
        tasks=Episodes(pixels / 16, digits, ways=2, shots=5, queries=10, splits=splits),
        episodes=8,
        steps=150,
        test_steps=5,
        rule=Space(
            GradientDescent,
            init=Learned(Space(mlp, outputs=1, hidden=(64,)), by=Adam(1e-3, clip=10.0, schedule=Cosine())),
            lr=Learned(0.5, by=Adam(1e-3), per="tensor"),
            steps=3,
        ),
    ),
)
