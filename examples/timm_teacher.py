"""A model of timm as a teacher. Its own preprocessing enlarges, crops and normalises the pictures it is asked about.

Published weights come from the hub: `teachers.from_timm("resnet18.a1_in1k")`. So that this script needs no network, the
last layer of a small random architecture is fitted to digits by least squares, and its weights are taken from a file.
"""

import torch
from safetensors.torch import save_file

from tuition import ResponseStore, data, distill, models, teachers

pool, test = data.load("digits"), data.load("digits", split="test")
theirs, ours = pool.split(600, seed=0)  # the teacher learned from other inputs than the student
random = teachers.from_timm("test_vit", pretrained=False, num_classes=10)
print(random.prepare)
with torch.no_grad():
    images = random.prepare(theirs.inputs)
    features = random.model.eval().forward_head(random.model.forward_features(images), pre_logits=True)
    targets = 10 * torch.nn.functional.one_hot(theirs.labels, 10).float()
    ridge = features.T @ features + 0.1 * torch.eye(features.shape[1])
    random.model.get_classifier().weight.copy_(torch.linalg.solve(ridge, features.T @ targets).T)
    random.model.get_classifier().bias.zero_()
save_file(random.model.state_dict(), "fitted.safetensors")

teacher = teachers.from_timm("test_vit", weights="fitted.safetensors", num_classes=10)
answers = teacher(test.inputs[:200])["logits"]
print(f"{teacher.name}: {100 * (answers.argmax(1) == test.labels[:200]).float().mean():.1f} % on 200 test images")

asked, others = ours.split(160, seed=0)
transfer = ResponseStore("sqlite:///responses.db").ask(teacher, asked, budget=160)
print(transfer.accounts)
student = models.create("cnn_8", num_classes=10, in_channels=1, seed=0)
run = distill(student, transfer, "ckd", validation=others.sample(60, seed=1), test=test, epochs=40)
print(f"accuracy of the student of {len(transfer)} calls: {run.accuracy:.1f} %")
