"""An ONNX file as a teacher: here a net that was trained, exported, and taken up again without its Python code."""

from tuition import ResponseStore, data, distill, models, teachers
from tuition.training import train_teacher

pool, test = data.load("digits"), data.load("digits", split="test")
theirs, ours = pool.split(600, seed=0)  # the teacher learned from other inputs than the student
taught = train_teacher("cnn_16", theirs, validation=None, test=test, epochs=15)
print(f"the net that is exported has {taught.accuracy:.1f} %")
teacher = teachers.from_onnx(taught.student.export("teacher.onnx"))
print(teacher.name, teacher.fingerprint)

asked, others = ours.split(160, seed=0)
transfer = ResponseStore("sqlite:///responses.db").ask(teacher, asked, budget=160)
print(transfer.accounts)
student = models.create("cnn_8", num_classes=10, in_channels=1, seed=0)
run = distill(student, transfer, "ckd", validation=others.sample(60, seed=1), test=test, epochs=40)
print(f"accuracy of the student of {len(transfer)} calls: {run.accuracy:.1f} %")
