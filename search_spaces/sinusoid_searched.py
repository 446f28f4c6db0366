"""The sinusoid of `sinusoid_maml`, its outer rate searched: TPE chooses one a trial, ASHA stops what learns slowly.

Each trial is a meta-training, its work spread over all workers. Rungs lie where it is validated, every 200 steps.
"""

import dataclasses

import sinusoid_maml

from bilevel import ASHA, TPE, Log

study = dataclasses.replace(
    sinusoid_maml.study.set("rule.init.by.lr", Log(1e-4, 1e-1)).set("validate_every", 200),
    name="sinusoid-searched",
    trials=20,
    search=TPE(startup=5),
    stop=ASHA(first=200, factor=3, last=8000),
)
