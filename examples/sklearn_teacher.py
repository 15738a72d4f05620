"""A scikit-learn classifier as a teacher, distilled into a small convolutional net."""

from sklearn.svm import SVC

from tuition import ResponseStore, data, distill, models, teachers

pool, test = data.load("digits"), data.load("digits", split="test")
bytes_to_unit = 1 / 255
theirs, ours = pool.split(600, seed=0)  # the teacher learned from other inputs than the student
machine = SVC(gamma=0.05).fit(theirs.inputs.flatten(1).numpy() * bytes_to_unit, theirs.labels.numpy())
teacher = teachers.from_sklearn(machine, scale=bytes_to_unit)  # images are scaled and flattened as they were to fit
answers = teacher(test.inputs)["logits"]
print(f"{teacher.name}: {100 * (answers.argmax(1) == test.labels).float().mean():.1f} % on test images")

asked, others = ours.split(160, seed=0)
transfer = ResponseStore("sqlite:///responses.db").ask(teacher, asked, budget=160)
print(transfer.accounts)
student = models.create("cnn_8", num_classes=10, in_channels=1, seed=0)
run = distill(student, transfer, "ckd", validation=others.sample(60, seed=1), test=test, epochs=40)
print(f"accuracy of the student of {len(transfer)} calls: {run.accuracy:.1f} %")
