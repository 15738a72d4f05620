"""What the authors of the paper do differently (docs/deviations.md), each against a few lines of its own.

Settings and options are read from the variant `as_authors`, so that a row which the variant lacks fails here.
"""

import copy
import math
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tuition import UserError, data, distill, losses, models
from tuition.pipeline.question import question_of
from tuition.pipeline.settings import DistillSettings, TeachSettings
from tuition.pipeline.sources import Sources
from tuition.pipeline.teach import teach
from tuition.studies import grid
from tuition.training import Objective, Student, Term, TrainSettings, methods
from tuition.training.batches import Batches
from tuition.training.epochs import distinct_groups, draw_classes
from tuition.training.learner import Learner
from tuition.training.loop import Training, train
from tuition.training.objective import Batch
from tuition.training.schedule import Schedule
from tuition.training.task import Task

CPU = torch.device("cpu")
AUTHORS = grid.read("table2", ["as_authors"])


def authors(*names):
    return {name: AUTHORS.settings[name] for name in names}


def on_course(transfer, validations, modules=(), **settings):
    """Train through made-up validations, by a loss whose gradient never ends; what each epoch left."""
    preprocess = models.Preprocess.fit(transfer.pool.inputs)
    student = Student(models.create("cnn_4", num_classes=10, in_channels=1, seed=0), preprocess, input_shape=(1, 8, 8))
    course, after = iter(validations), []

    def loss(logits, batch):
        for module in modules:
            module.last += 1
        return F.mse_loss(logits, batch.responses["logits"])

    def validate(_):
        after.append(copy.deepcopy(student.state_dict()))
        return next(course)

    objective = Objective([Term("mse", loss)], modules=modules)
    batches = batches_of(transfer, objective, batch_size=64)
    chosen = TrainSettings(schedule="stages", patience=2, batch_size=64, epochs=len(validations), **settings)
    state, best = train(student, objective, batches, chosen, validate=validate)
    return state, best, after


def batches_of(transfer, objective, batch_size=16, **others):
    return Batches(
        transfer,
        objective,
        batch_size=batch_size,
        augment=None,
        num_classes=10,
        device=CPU,
        generator=torch.Generator().manual_seed(0),
        **others,
    )


class Memory(torch.nn.Module):
    """Counts the steps, as CRD's memory would keep embeddings."""

    def __init__(self):
        super().__init__()
        self.register_buffer("last", torch.tensor(0))


def seen_by(transfer, **settings):
    """The batches that an epoch of a training sees."""
    batches = []

    def loss(logits, batch):
        batches.append(batch)
        return F.mse_loss(logits, batch.responses["logits"])

    run = distill("cnn_4", transfer, Objective([Term("mse", loss)]), epochs=1, **settings)
    return batches[-run.steps :]  # before them comes a step on trial


def plain_term():
    return Term("mse", lambda logits, batch: F.mse_loss(logits, batch.responses["logits"]))


# -- D6: a teacher by milestones, on all images ------------------------------------------------------------------------


def test_d6_milestones_of_240_epochs_are_150_180_and_210():
    teaching = {name: AUTHORS.teaching[name] for name in ("schedule", "epochs")}
    schedule = Schedule(TrainSettings(**teaching), steps=3)
    rates = [schedule.factor(3 * epoch + 2) for epoch in range(240)]
    assert rates == pytest.approx([1.0] * 150 + [0.1] * 30 + [0.01] * 30 + [0.001] * 30)


def test_d6_a_teacher_may_learn_from_all_images_and_keeps_its_last_epoch(tmp_path):
    theirs = {name: AUTHORS.teaching[name] for name in ("schedule", "hold_out", "learning_rate")}
    settings = {"model": "cnn_4", "epochs": 8, "examples": 40, "test": None, "threads": 1}
    run = teach(TeachSettings.of(settings | theirs), tmp_path / "all")
    assert (run.images_seen, run.best_epoch, run.validation) == (8 * 40, 8, None)
    held = teach(TeachSettings.of(settings), tmp_path / "held")
    assert held.images_seen == 8 * 30
    assert held.validation is not None
    assert [row["learning_rate"] for row in run.history] == pytest.approx([0.05] * 5 + [0.005, 0.0005, 0.00005])


# -- D7: precision -----------------------------------------------------------------------------------------------------


def test_d7_forward_passes_on_cuda_are_in_float32(monkeypatch):
    """By the arguments of autocast, because no GPU is needed to see them."""
    monkeypatch.setattr(torch, "autocast", lambda device, dtype, enabled: (device, dtype, enabled))
    student = Student(torch.nn.Linear(2, 2), models.Preprocess([0.5], [0.5]), input_shape=(2,))
    learners = [Learner(student, Objective([plain_term()]), **each) for each in (authors("precision"), {})]
    theirs, ours = (learner.autocast(torch.device("cuda")) for learner in learners)
    assert not theirs[2]
    assert ours == ("cuda", torch.bfloat16, True)


# -- D8, D9, D14: the end of a stage -----------------------------------------------------------------------------------


def test_d8_the_first_of_equal_validations_is_the_best(plain):
    course = [10.0, 30.0, 30.0, 20.0, 30.0, 5.0]
    for settings, expected in ((authors("ties"), 2), ({}, 5)):
        state, best, after = on_course(plain, course, **settings)
        assert state.best_epoch == expected
        assert all(torch.equal(best[name], value) for name, value in after[expected - 1].items())


@pytest.mark.parametrize("kept_on", [True, False])
def test_d9_momentum_goes_on_into_the_next_stage(plain, kept_on):
    """The first step of stage 2 is, but for its gradient, the momentum that the last of stage 1 left."""
    preprocess = models.Preprocess.fit(plain.pool.inputs)
    model = models.create("cnn_4", num_classes=10, in_channels=1, seed=0)
    student = Student(model, preprocess, input_shape=(1, 8, 8))
    objective = Objective([plain_term()])
    theirs = authors("stage_momentum") if kept_on else {}
    settings = TrainSettings(schedule="stages", patience=1, batch_size=64, **theirs)
    run = Training(student, objective, batches_of(plain, objective, batch_size=64), settings)
    course = iter([2.0, 1.0])
    for _ in range(2):
        list(run.steps())
        momenta = {name: run.optimizer.state[p]["momentum_buffer"].clone() for name, p in student.named_parameters()}
        run.measure(lambda _: next(course))
    assert run.schedule.stages.stage == 1
    kept = {name: run.optimizer.state[p].get("momentum_buffer") for name, p in student.named_parameters()}
    if kept_on:
        assert all(torch.equal(kept[name], value) for name, value in momenta.items())
    else:
        assert set(kept.values()) == {None}


@pytest.mark.parametrize(("settings", "expected"), [({}, 2), (authors("stage_memory"), 4)])
def test_d14_a_memory_stays_as_it_is_at_the_end_of_a_stage(plain, settings, expected):
    """The best of stage 1 is its first epoch, and the stage ends after the third; another step is made."""
    memory = Memory()
    on_course(plain, [3.0, 2.0, 1.0, 0.0], modules=[memory], **settings)
    assert int(memory.last) == expected


# -- D5, D10, D13: batches ---------------------------------------------------------------------------------------------


def test_d5_batches_of_five_images_a_class():
    labels = torch.arange(100).repeat(16)[torch.randperm(1600)]
    generator = torch.Generator().manual_seed(0)
    seen = set()
    for _ in range(40):
        rows = draw_classes(labels, 5, 64, generator)
        assert len(set(rows.tolist())) == 64
        assert sorted(labels[rows].bincount().tolist())[-13:] == [4] + [5] * 12
        seen |= set(rows.tolist())
    assert len(seen) > 1200  # of 40 * 64 draws out of 1,600 about 1,280 are expected to be seen


def test_d5_a_class_of_few_images_gives_all_of_them():
    labels = torch.tensor([0, 1, 1, 1, 1, 1, 1, 3])
    rows = draw_classes(labels, 3, 64, torch.Generator().manual_seed(0))
    assert labels[rows].bincount().tolist() == [1, 3, 0, 1]


def test_d10_pairs_are_distinct_and_none_comes_twice_in_an_epoch(plain):
    every = {frozenset(pair) for pair in combinations(range(30), 2)}
    generator = torch.Generator().manual_seed(0)
    found = [frozenset(pair) for pair in distinct_groups(30, 10_000, (1, 1), generator).tolist()]
    assert len(found) == len(every)
    assert set(found) == every
    some = distinct_groups(1600, 500, (1, 1), generator)
    assert len(some) == len({frozenset(pair) for pair in some.tolist()}) == 500
    objective = Objective([plain_term()], groups=(1, 1), groups_drawn=100_000, distinct=True)
    batches = batches_of(plain, objective)
    for _ in range(3):
        pairs = [frozenset(p) for b in batches.epoch() for p in zip(*b.rows.view(2, -1).tolist(), strict=True)]
        assert len(pairs) == len(set(pairs)) == 4 * 16


def test_d10_groups_of_equal_members_are_one():
    found = distinct_groups(5, 1000, (2, 2), torch.Generator().manual_seed(1)).tolist()
    sides = {frozenset((frozenset(row[:2]), frozenset(row[2:]))) for row in found}
    assert len(found) == len(sides) == math.comb(5, 2) * math.comb(3, 2) // 2
    found = distinct_groups(4, 1000, (2, 1), torch.Generator().manual_seed(1)).tolist()
    assert len(found) == len({(frozenset(row[:2]), row[2]) for row in found}) == 12


@pytest.mark.parametrize(
    ("batch_size", "expected"), [(16, [16] * 4), (15, [15] * 4 + [4]), (21, [21, 21, 22]), (63, [64]), (80, [64])]
)
def test_d13_the_last_batch_holds_what_is_left_and_is_never_one_row(plain, batch_size, expected):
    batches = batches_of(plain, Objective([plain_term()]), batch_size=batch_size, short=True)
    found = [batch.rows for batch in batches.epoch()]
    assert [len(rows) for rows in found] == expected
    assert len(batches) == len(expected)
    assert sorted(torch.cat(found).tolist()) == list(range(64))


def test_d13_a_training_as_the_authors_has_a_short_last_batch(plain):
    theirs, ours = (seen_by(plain, batch_size=15, **settings) for settings in (authors("last_batch"), {}))
    assert [len(batch.rows) for batch in theirs] == [15, 15, 15, 15, 4]
    assert [len(batch.rows) for batch in ours] == [13, 13, 13, 13, 12]


# -- D12, D15: what the student begins with ----------------------------------------------------------------------------


def test_d12_heads_begin_as_in_repdistiller():
    def made(name, head):
        return models.make(name, num_classes=100, in_channels=3, seed=0, start=models.Start(head=head)).model

    theirs = AUTHORS.settings["head"]
    vgg = made("vgg8", theirs).classifier.requires_grad_(False)
    assert float(vgg.weight.std()) == pytest.approx(0.01, rel=0.02)
    assert float(vgg.weight.abs().max()) > 0.03  # normal, and not uniform
    assert not vgg.bias.any()
    assert float(made("vgg8", "default").classifier.weight.detach().std()) == pytest.approx(
        1 / math.sqrt(3 * 512), rel=0.02
    )
    bias = made("resnet32", theirs).classifier.bias.detach()
    assert 0.9 / 8 < float(bias.abs().max()) <= 1 / 8  # uniform within 1 / sqrt(64)
    assert float(bias.std()) == pytest.approx(1 / 8 / math.sqrt(3), rel=0.25)
    assert not made("resnet32", "default").classifier.bias.any()
    ours, same = (made("wrn_10_1", head).state_dict() for head in ("default", theirs))
    assert all(torch.equal(value, same[name]) for name, value in ours.items())


def test_d12_other_models_have_no_such_head():
    with pytest.raises(UserError, match="no setting head; it is for VGG and ResNet"):
        models.make("timm:resnet18", num_classes=2, in_channels=3, start=models.Start(head="repdistiller"))


def test_d15_channels_are_normalised_by_fixed_constants(transfer):
    """Written out, on colours whose own mean and deviation are others."""
    images = torch.randint(0, 100, (64, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    coloured = replace(transfer, pool=data.from_tensors(images, labels=transfer.labels))
    run = distill("cnn_4", coloured, "kd", epochs=1, **authors("mean", "std"))
    constants = ((0.5071, 0.2675), (0.4867, 0.2565), (0.4408, 0.2761))
    expected = [(images[:, c] / 255 - mean) / std for c, (mean, std) in enumerate(constants)]
    torch.testing.assert_close(run.student.preprocess(images), torch.stack(expected, dim=1))
    with pytest.raises(UserError, match="mean and std belong together"):
        DistillSettings.of({"mean": [0.5]})


# -- D2, D3: white-box methods -----------------------------------------------------------------------------------------


def with_maps(transfer, student_map, teacher_map):
    """What a white-box objective of one pair of layers is given: two inputs that make the one pair of a batch."""
    layer = torch.nn.Conv2d(1, student_map.shape[1], 8)
    model = torch.nn.Sequential(layer, torch.nn.Flatten(), torch.nn.Linear(student_map.shape[1], 10))
    responses = transfer.responses | {"0": teacher_map}
    example = torch.zeros(2, 1, 8, 8)
    task = Task(transfer.labels, responses, num_classes=10, seed=0, model=model, example=example)
    targets = F.one_hot(transfer.labels[:2], 10).float()
    rows = torch.arange(2)
    batch = Batch(example, rows, {name: value[:2] for name, value in responses.items()}, targets, groups=(1, 1))
    return task, {"logits": torch.zeros(2, 10), "0": student_map}, batch


def test_d2_the_regressor_reads_the_difference_of_the_student_s_maps(transfer):
    """By hand: R = relu(2 x + 1); s = 3 and 1 differ by 2, so R gives 5, t = 4 and 1 differ by 3: (5 - 3)^2 = 4.

    On each side R gives 7 and 3, which differ by 4: (4 - 3)^2 = 1, which is another loss.
    """
    student_map, teacher_map = torch.tensor([3.0, 1.0]).view(2, 1, 1, 1), torch.zeros(64, 1, 1, 1)
    teacher_map[:2, 0, 0, 0] = torch.tensor([4.0, 1.0])
    task, outputs, batch = with_maps(transfer, student_map, teacher_map)
    options = {**AUTHORS.options["fitnets_ckd"], "pairs": {"0": "0"}, "weight": 1.0}
    objective = methods.create("fitnets_ckd", task, options).eval()
    (regressor,) = objective.state
    with torch.no_grad():
        regressor.conv.weight.fill_(2)
        regressor.conv.bias.fill_(1)
        regressor.norm.eps = 0.0  # in evaluation mode batch norm is the identity then
    assert objective(outputs, batch)["hint_0"].item() == pytest.approx(4.0)
    swapped = {**outputs, "0": student_map.flip(0)}
    # Now R = relu(2 * -2 + 1) = 0, and (0 - 3)^2 = 9: the ReLU cuts every negative difference off.
    assert objective(swapped, batch)["hint_0"].item() == pytest.approx(9.0)
    exact = methods.create("fitnets_ckd", task, {"pairs": {"0": "0"}, "weight": 1.0}).eval()
    exact.state.load_state_dict(objective.state.state_dict())
    exact.state[0].norm.eps = 0.0
    assert exact(outputs, replace(batch, groups=None))["hint_0"].item() == pytest.approx(1.0)


def test_d2_vid_is_the_likelihood_of_the_teacher_s_difference(transfer):
    """By hand, R the identity on positive numbers: difference 2 against 3, variance 5: ((2 - 3)^2 / 5 + log 5) / 2."""
    student_map, teacher_map = torch.tensor([3.0, 1.0]).view(2, 1, 1, 1), torch.zeros(64, 1, 1, 1)
    teacher_map[:2, 0, 0, 0] = torch.tensor([4.0, 1.0])
    task, outputs, batch = with_maps(transfer, student_map, teacher_map)
    objective = methods.create("vid_ckd", task, {**AUTHORS.options["vid_ckd"], "pairs": {"0": "0"}})
    with torch.no_grad():
        for parameter in objective.state[0].regressor.parameters():
            parameter.fill_(1)
    assert objective(outputs, batch)["vid_0"].item() == pytest.approx((1 / 5 + math.log(5)) / 2)


@pytest.mark.parametrize("name", ["fitnets", "fitnets_ckd"])
@pytest.mark.parametrize("as_authors", [True, False])
def test_d3_the_regressor_ends_in_a_relu(transfer, name, as_authors):
    """The default leaves it out where the teacher's maps go negative, as those of a wide residual net do."""
    task, _, _ = with_maps(transfer, torch.zeros(2, 1, 1, 1), torch.linspace(-1, 1, 64).view(64, 1, 1, 1))
    theirs = {"relu": AUTHORS.options[name]["relu"]} if as_authors else {}
    regressor = methods.create(name, task, {**theirs, "pairs": {"0": "0"}}).state[0]
    found = regressor(torch.randn(64, 1, 1, 1)).detach()
    assert float(found.min()) == 0 if as_authors else float(found.min()) < -0.5


# -- D4, D5, D10, D11, D14, D16: options of methods --------------------------------------------------------------------


def made(transfer, name, options, batch_size=16):
    model = models.create("cnn_4", num_classes=10, in_channels=1, seed=0)
    task = Task(transfer.labels, transfer.responses, 10, 0, model, torch.zeros(2, 1, 8, 8))
    objective = methods.create(name, task, options)
    return objective, batches_of(transfer, objective, batch_size=batch_size)


def test_d5_rkd_takes_batches_by_class(plain):
    _, batches = made(plain, "rkd", AUTHORS.options["rkd"], batch_size=32)
    counts = [sorted(plain.labels[batch.rows].bincount().tolist()) for batch in batches.epoch()]
    assert len(counts) == len(batches) == 2
    assert all(sum(each) <= 32 and max(each) <= 5 for each in counts)
    assert all(each.count(5) >= 4 for each in counts)
    with pytest.raises(UserError, match="need labels"):
        made(replace(plain, pool=plain.pool.without_labels), "rkd", {"per_class": 5})


def test_d10_published_ckd_compares_distinct_pairs(plain):
    objective, batches = made(plain, "ckd_published", AUTHORS.options["ckd_published"])
    pairs = [frozenset(p) for b in batches.epoch() for p in zip(*b.rows.view(2, -1).tolist(), strict=True)]
    assert len(pairs) == len(set(pairs)) == 64
    drawn = [frozenset(pair) for pair in batches.rows.groups.tolist()]
    assert len(drawn) == len(set(drawn)) == math.comb(64, 2)  # by default 100,000, with repeats
    assert (objective.groups, objective.groups_drawn) == ((1, 1), 100_000)
    with pytest.raises(UserError, match="drawn once"):
        made(plain, "ckd_published", {"distinct": True, "groups_drawn": 0})


def test_d11_mixup_partners_come_from_pairs_drawn_once(plain):
    """Each input of a batch is an image and one partner, mixed by the batch's one share, targets alike."""
    (option,) = AUTHORS.options["mixup"]
    _, batches = made(plain, "mixup", {option: 6})
    drawn = {tuple(pair) for pair in batches.rows.groups.tolist()}
    assert len(drawn) == 6
    images, one_hot = plain.pool.inputs.float() / 255, F.one_hot(plain.labels, 10).float()
    answers = plain.responses["logits"].softmax(dim=1)
    for batch in batches.epoch():
        assert len(batch.inputs) == len(batch.rows) == 16
        assert batch.groups is None
        found = set()
        for row, mixed, target, answer in zip(
            batch.rows.tolist(), batch.inputs, batch.targets, batch.responses["distribution"], strict=True
        ):
            for left, right in drawn:
                own, other = images[left], images[right]
                share = float(((mixed - other) * (own - other)).sum() / (own - other).square().sum())
                if left == row and torch.allclose(mixed, share * own + (1 - share) * other, atol=1e-5):
                    found.add(round(share, 4))
                    torch.testing.assert_close(target, share * one_hot[left] + (1 - share) * one_hot[right])
                    torch.testing.assert_close(answer, share * answers[left] + (1 - share) * answers[right])
                    break
            else:
                raise AssertionError("this input is a mix of no pair")
        assert len(found) == 1, "one share a batch"


def test_d11_images_seen_are_those_forwarded(plain):
    run = distill("cnn_4", plain, "mixup", epochs=2, options={"pairs_drawn": 100})
    assert run.images_seen == 2 * 64


@pytest.mark.parametrize("labelled", [True, False])
def test_d14_negatives_are_drawn_alike_from_other_classes(labelled):
    labels = torch.tensor([0, 1, 0, 2, 2, 2, 1]) if labelled else None
    contrast = losses.CRD(3, 3, 7, negatives=20_000, labels=labels)
    ids = torch.tensor([4, 0, 6])
    drawn = contrast.draw(ids, torch.Generator().manual_seed(0))
    assert torch.equal(drawn[:, 0], ids)
    for row, own in zip(drawn[:, 1:], ids.tolist(), strict=True):
        allowed = [i for i in range(7) if (labels[i] != labels[own] if labelled else i != own)]
        counts = row.bincount(minlength=7)
        assert [i for i in range(7) if counts[i]] == allowed
        expected = 20_000 / len(allowed)
        assert all(abs(int(counts[i]) - expected) < 5 * math.sqrt(expected) for i in allowed)


def test_d14_crd_contrasts_with_the_drawn_rows(plain):
    """The loss of the objective is the module's on these rows; others are drawn for every batch."""
    objective, batches = made(plain, "crd", {**AUTHORS.options["crd"], "negatives": 50})
    first, second = list(batches.epoch())[:2]
    assert first.responses["contrast"].shape == (16, 51)
    assert not torch.equal(first.responses["contrast"], second.responses["contrast"])
    contrast = copy.deepcopy(objective.state[0])
    logits = torch.randn(16, 10)
    found = objective({"logits": logits}, first)["crd"] / 0.8
    expected = contrast(logits, first.responses["logits"], first.rows, first.responses["contrast"])
    torch.testing.assert_close(found, expected)


def test_d16_boxes_are_cut_to_even_numbers():
    """Mean area by simulation of the two rules: 0.300 against 0.323 for 32x32 pixels (cut off at the borders)."""

    def area(even):
        generator = torch.Generator().manual_seed(0)
        zero_one = torch.cat([torch.zeros(1, 1, 32, 32), torch.ones(1, 1, 32, 32)])
        total, sides = 0.0, set()
        for _ in range(1500):
            mixed, _ = losses.cutmix(zero_one, torch.eye(2), even=even, generator=generator)
            box = mixed[0, 0]
            if 0 < box.sum() < 1024:
                rows, columns = box.any(1).nonzero().flatten(), box.any(0).nonzero().flatten()
                for side in (rows, columns):
                    if int(side[0]) > 0 and int(side[-1]) < 31:  # not cut off
                        sides.add(len(side))
            total += float(box.mean())
        return total / 1500, sides

    (even, even_sides), (rounded, rounded_sides) = area(True), area(False)
    assert all(side % 2 == 0 for side in even_sides)
    assert any(side % 2 for side in rounded_sides)
    # A draw that exchanges no rows leaves the image as it is: half of the draws with two rows.
    assert 2 * even == pytest.approx(0.300, abs=0.03)
    assert 2 * rounded == pytest.approx(0.323, abs=0.03)
    assert even < rounded


@pytest.mark.parametrize("name", ["cutmix", "cutmix_pick"])
def test_d16_methods_cut_their_boxes_so(plain, name):
    """The box of a mix is where it differs from its image; of noise, two images differ nearly everywhere."""
    noise = torch.randint(256, (64, 1, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    noisy = replace(plain, pool=replace(data.from_tensors(noise, labels=plain.labels), augment=None))
    sides = {}
    for options in (AUTHORS.options[name], {}):
        torch.manual_seed(0)
        _, batches = made(noisy, name, options)
        found = sides[bool(options)] = set()
        for batch in [batch for _ in range(8) for batch in batches.epoch()]:
            for row, mixed in zip(batch.rows.tolist(), batch.inputs[:, 0], strict=True):
                box = (mixed - noise[row, 0] / 255).abs() > 1e-6
                for side in (box.any(0).nonzero().flatten(), box.any(1).nonzero().flatten()):
                    if len(side) and int(side[0]) > 0 and int(side[-1]) < 31:  # not cut off
                        found.add(len(side))
    assert all(side % 2 == 0 for side in sides[True])
    assert any(side % 2 for side in sides[False])


# -- D1, D4: views -----------------------------------------------------------------------------------------------------


def test_d1_the_teacher_sees_one_random_view_of_each_image(pool):
    """Every view is a crop of the image within a border of one zero; a student still sees views of its own."""
    settings = DistillSettings.of({"calls": 40, "seed": 2, **authors("view")})
    asked = question_of(settings, Sources()).inputs
    clean = question_of(settings.changed(view="clean"), Sources()).inputs
    images, seen = F.pad(clean.asked_tensor(), (1, 1, 1, 1)), asked.asked_tensor()
    places = []
    for image, view in zip(images, seen, strict=True):
        crops = {(y, x): image[:, y : y + 8, x : x + 8] for y in range(3) for x in range(3)}
        found = [place for place, crop in crops.items() if torch.equal(crop, view)]
        assert found, "the view is not a crop of its image"
        places += found[:1]
    assert len(set(places)) > 5
    assert torch.equal(question_of(settings, Sources()).inputs.asked_tensor(), seen), "it is drawn once"


def test_d1_views_of_colours_are_flipped_too(tmp_path):
    """A padding of 4 and a flip for images of 32x32, each place and side about as often as others."""
    images = torch.randint(1, 256, (60, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for split in ("train", "test"):
        np.savez(tmp_path / f"{split}.npz", inputs=images.numpy(), labels=np.arange(60) % 3)
    settings = DistillSettings.of({"data": str(tmp_path), "calls": 40, "seed": 2, **authors("view")})
    clean = question_of(settings.changed(view="clean"), Sources()).inputs.asked_tensor()
    found = []
    for image, view in zip(clean, question_of(settings, Sources()).inputs.asked_tensor(), strict=True):
        padded = {False: F.pad(image, (4, 4, 4, 4)), True: F.pad(image.flip(2), (4, 4, 4, 4))}
        found += [
            (flip, y, x)
            for flip, each in padded.items()
            for y in range(9)
            for x in range(9)
            if torch.equal(each[:, y : y + 32, x : x + 32], view)
        ]
    assert len(found) == 40, "every view is one crop of its image, or of its mirror image"
    assert 10 <= sum(flip for flip, *_ in found) <= 30
    assert len({(y, x) for _, y, x in found}) > 20


@pytest.mark.parametrize("aligned", [True, False])
def test_d4_maps_stay_where_the_teacher_saw_them(transfer, aligned):
    maps = torch.rand(64, 2, 4, 4)
    answered = replace(transfer, responses=transfer.responses | {"stage2": maps})
    batches = seen_by(answered, batch_size=16, **({} if aligned else authors("aligned")))
    same = [torch.equal(batch.responses["stage2"], maps[batch.rows]) for batch in batches]
    assert same == [not aligned] * 4
