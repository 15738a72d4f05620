"""Any Python function as a teacher: here one that costs money, and a budget that it is held to."""

import torch

from tuition import ResponseStore, data, distill, models, teachers
from tuition.errors import UserError

pool, test = data.load("digits"), data.load("digits", split="test")
theirs, ours = pool.split(600, seed=0)  # the teacher learned from other inputs than the student
centres = torch.stack([theirs.inputs[theirs.labels == k].float().mean(0) for k in range(10)]).flatten(1)


def paid_service(images: torch.Tensor) -> dict[str, torch.Tensor]:
    """Stands for a request to a service: the nearest mean picture of a class."""
    return {"logits": -torch.cdist(images.float().flatten(1), centres) / 100}


teacher = teachers.from_callable(paid_service, fingerprint="nearest mean, version 1")
store = ResponseStore("sqlite:///responses.db")
asked, others = ours.split(120, seed=0)
print("before:", store.plan(teacher, asked, cost_per_call=0.002))
transfer = store.ask(teacher, asked, budget=120, cost_per_call=0.002)
print("first: ", transfer.accounts)
print("again: ", store.ask(teacher, asked, budget=120).accounts)
try:
    store.ask(teacher, others.sample(80, seed=0), budget=120)
except UserError as error:
    print("beyond:", error)

student = models.create("cnn_8", num_classes=10, in_channels=1, seed=0)
run = distill(student, transfer, "ckd", validation=others.sample(60, seed=1), test=test, epochs=40)
print(f"accuracy of the student of {len(transfer)} calls: {run.accuracy:.1f} %")
