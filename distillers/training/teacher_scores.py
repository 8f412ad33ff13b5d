"""Score the teachers of a run before it begins, and warn of those near chance."""

import re

from distillers.config.student import StudentConfig
from distillers.data.source import DataSource
from distillers.distillation.multi_teacher import AverageNetwork
from distillers.distributed.world import World
from distillers.features.backbone import has_logits
from distillers.training.evaluate import is_near_chance, score
from distillers.training.student_setup import StudentSetup
from distillers.training.teachers import LoadedTeachers


def chance_warnings(accuracy: float, test: DataSource) -> list[str]:
    """Return a warning if a teacher is not clearly better than chance."""
    names, count = test.class_names, len(test.test_labels)
    if not is_near_chance(accuracy, count, len(names)):
        return []
    lines = [
        f"WARNING: the teacher is no better than chance ({accuracy:.2f} % of {count} "
        f"{test.test_part} images, chance is {100 / len(names):.2f} %): it may not be trained for "
        "these classes, or for images of this size and normalization."
    ]
    natural = sorted(names, key=_natural_key)
    if natural != list(names):
        lines.append(
            f"WARNING: or it was trained with the classes in another order: here they are sorted "
            f"alphabetically ({', '.join(names[:3])}, ...), in natural order they would be "
            f"{', '.join(natural[:3])}, ... Rename the folders if so (01, 02, ... for 1, 2, ...)."
        )
    return lines


def _natural_key(name: str) -> list[tuple[int, str]]:
    """Return a key that sorts names as people do: numbers within them by value."""
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", name)]


def score_teachers(
    setup: StudentSetup, teachers: LoadedTeachers, config: StudentConfig, world: World
) -> float | None:
    """Print the accuracies of the teachers on the test images, and warnings near chance.

    Returns:
        The accuracy in percent; of several teachers that of their average, None without one.
    """
    pairs = zip(teachers.teachers, setup.teachers, strict=True)
    nets = {
        f"{number} ({one.name})": net
        for number, (one, net) in enumerate(pairs, start=1)
        if has_logits(net)
    }
    if not nets:
        return None
    if len(nets) == len(setup.teachers) > 1 and config.combine_teachers != "each":
        task = setup.task
        average = AverageNetwork([*nets.values()], task.teacher_weights, task.combine)
        nets = {**nets, "average": average}
    accuracy = None
    test = setup.splits.test
    for name, net in nets.items():
        loader = test.test_loader(world.device, world.shard)
        accuracy = score(net, loader.epoch(1), world).acc
        who = "teacher" if len(setup.teachers) == 1 else f"teacher {name}"
        world.say(f"{who}: {accuracy:.2f} % on the {test.test_part} images")
        for warning in chance_warnings(accuracy, test):
            world.say(warning)
    return accuracy if len(setup.teachers) == 1 or "average" in nets else None
