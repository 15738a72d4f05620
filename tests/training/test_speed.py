"""What keeps a step fast on a device cannot be timed here, but that it never waits for the device can be proved."""

import pytest
import torch
from torch._subclasses.fake_tensor import DynamicOutputShapeException, FakeTensorMode
from torch.utils._pytree import tree_map_only

from tuition import models
from tuition.training import Student, methods
from tuition.training.batches import Batches
from tuition.training.cpu_threads import step_flops, using
from tuition.training.learner import Learner, step

# Mixes draw their boxes and orders on the host.
BLACK_BOX = [method.name for method in methods.METHODS.values() if method.layers is None and method.family != "mixing"]


def make(transfer, method):
    model = models.create("cnn_4", num_classes=10, in_channels=1, seed=0)
    student = Student(model, models.Preprocess.fit(transfer.pool.inputs), input_shape=(1, 8, 8)).train()
    task = methods.Task(transfer.labels, transfer.responses, 10, 0, model, student.preprocess(transfer.pool.inputs[:2]))
    objective = methods.create(method, task)
    generator = torch.Generator().manual_seed(0)
    batches = Batches(
        transfer,
        objective,
        batch_size=16,
        augment=transfer.pool.augment,
        num_classes=10,
        device=torch.device("cpu"),
        generator=generator,
    )
    return student, objective, batches


def whole(name, shape):
    model = models.create(name, num_classes=10, in_channels=shape[0], seed=0)
    return Student(model, models.Preprocess([0.0] * shape[0], [1.0] * shape[0]), input_shape=shape)


def test_flops_of_a_step_by_hand():
    layers = 9 * 1 * 4 * 64 + 9 * 4 * 8 * 16 + 9 * 8 * 16 * 4 + 16 * 10  # three convolutions and the classifier
    assert step_flops(whole("cnn_4", (1, 8, 8)), 64) == 2 * 3 * 64 * layers


def test_small_students_leave_threads_to_others_where_a_setting_asks():
    """A step of cnn_4 is 0.01 GFLOP, one of resnet8 on 32x32 is 4.8."""
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        small, large = whole("cnn_4", (1, 8, 8)), whole("resnet8", (3, 32, 32))
        for student, setting, threads in ((small, 0, 1), (large, 0, 2), (small, None, 2), (large, 1, 1)):
            with using(setting, student.train(), 64):
                assert torch.get_num_threads() == threads
            assert torch.get_num_threads() == 2
            assert student.training
            assert all(int(v) == 0 for n, v in student.state_dict().items() if "tracked" in n)
    finally:
        torch.set_num_threads(before)


def test_the_check_sees_a_wait():
    with FakeTensorMode(), pytest.raises(DynamicOutputShapeException):
        torch.ones(3).nonzero()
    with FakeTensorMode(), pytest.raises(RuntimeError):
        float(torch.ones(3).sum())


@pytest.mark.parametrize("method", BLACK_BOX)
def test_a_step_never_waits_for_the_device(transfer, method):
    """Tensors without contents: nothing on the host can depend on what is in them."""
    student, objective, batches = make(transfer, method)
    draws = list(batches.draw())
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        for module in (student, objective):
            module._apply(mode.from_tensor)
        vars(batches).update(tree_map_only(torch.Tensor, mode.from_tensor, vars(batches)))
        optimizer = torch.optim.SGD([*student.parameters(), *objective.parameters()], lr=0.1, momentum=0.9, fused=True)
        for rows, views, _ in draws[:2]:
            batch = batches.batch(mode.from_tensor(rows), mode.from_tensor(views))
            terms = step(Learner(student, objective), optimizer, batch)
            assert all(term.shape == () for term in terms.values())
