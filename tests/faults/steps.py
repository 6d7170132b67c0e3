"""Take five steps of every method without dropout; write losses and gradients to a file.

    python steps.py CLIP OUT ACCUMULATE

Started by a launcher, the processes share the batches.
"""

import sys
from dataclasses import replace
from itertools import islice

import torch

from unseen.building import build, open_source
from unseen.learning import Engine, Learner
from unseen.recipes import RECIPES, Source
from unseen.settings import find_setting
from unseen.training import launch_fabric, read_batches

CASES = (
    ("zegclip", "inductive", {}),
    ("zegclip", "inductive", {"loss": "softmax"}),
    ("zegclip", "transductive", {}),
    ("cascade", "supervised", {"groups": [[1, 2], [3]]}),
    ("cliprc", "inductive", {"regions": 4}),
    ("cliprc", "transductive", {"regions": 4}),
)

torch.set_num_threads(1)
clip, out, accumulate = sys.argv[1], sys.argv[2], int(sys.argv[3])
engine = Engine(accumulate=accumulate)
fabric = launch_fabric(engine, "cpu")
kept = {}
for number, (method, setting, own) in enumerate(CASES):
    recipe = replace(
        RECIPES[f"{method}-miniature-{setting}"],
        clip=clip,
        data=Source("micro"),
        setting="inductive",
        steps=5,
        batch_size=4,
        learning_rate=1e-3,
        warmup=1,
        loss=own.pop("loss", "masks"),
        options={"prompts": 2, "heads": 4, **own},
        window=48,
        stride=40,
    )
    torch.manual_seed(0)
    model, encoder, recipe, _ = build(recipe, None)
    recipe = replace(recipe, setting=setting)  # which alone would ask for a start
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    dataset = open_source(recipe)
    vocabulary = dataset.vocabulary
    shown = [vocabulary.names[i] for i in find_setting(setting).shown(vocabulary)]
    text = encoder.embed(shown, vocabulary.templates)
    # in double precision, lest AdamW make much of how sums of little are rounded
    model, text = model.double(), text.double()
    learner = Learner(fabric, model, text, vocabulary, recipe, engine)
    batches = read_batches(dataset, recipe, engine, fabric, 0)
    for step, batch in enumerate(islice(batches, 5)):
        losses = learner.step(step, batch)
        kept[f"{number} {step}"] = {
            "losses": {name: learner.average(value) for name, value in losses.items()},
            "gradients": {
                name: parameter.grad.clone()
                for name, parameter in model.named_parameters()
                if parameter.grad is not None
            },
        }
if fabric.is_global_zero:
    torch.save(kept, out)
fabric.barrier()
